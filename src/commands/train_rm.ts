import { rmOptions, type RmSettings } from '../options.ts';
import { rmPresets } from '../presets.ts';
import { command } from './command.ts';
import { checkTraining } from './training.ts';

export const trainRm = command<RmSettings>({
  name: 'train-rm',
  summary: 'Step 2: train a reward model on rankings',
  options: rmOptions,
  input: 'data',
  examples: [
    'rlhf train-rm --model sft --data rankings.jsonl --demonstrations demonstrations.jsonl --out rm',
    'rlhf train-rm --model sft --k 4 --data rankings.jsonl --eval-data held-out.jsonl --out rm',
  ],
  presets: rmPresets,
  trains: true,
  complete: checkTraining,
  run: async (context, settings) => (await import('../stages/reward.ts')).trainRm(settings, context),
});
