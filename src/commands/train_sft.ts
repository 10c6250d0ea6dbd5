import { UsageError } from '../errors.ts';
import { sftOptions, type SftSettings } from '../options.ts';
import { sftPresets } from '../presets.ts';
import { command } from './command.ts';
import { checkTraining } from './training.ts';

export const trainSft = command<SftSettings>({
  name: 'train-sft',
  summary: 'Step 1: fine-tune a model on demonstrations',
  options: sftOptions,
  input: 'data',
  examples: [
    'rlhf train-sft --model base --data demonstrations.jsonl --out sft',
    'rlhf train-sft --model base --data d.jsonl --pretrain text.jsonl --pretrain-fraction 0.1 --out sft',
  ],
  presets: sftPresets,
  trains: true,
  complete: (settings) => {
    checkTraining(settings);
    if (settings.selectByReward !== undefined && settings.evalData === undefined) {
      throw new UsageError(
        '--select-by-reward needs --eval-data',
        'the rows whose prompts are answered after each epoch',
      );
    }
    if (settings.selectByReward !== undefined && settings.evalData!.includes('-')) {
      throw new UsageError('--eval-data -: with --select-by-reward its rows are read twice, and standard input can be read once', 'name a file');
    }
  },
  run: async (context, settings) => (await import('../stages/sft.ts')).trainSft(settings, context),
});
