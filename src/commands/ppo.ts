import { UsageError } from '../errors.ts';
import { ppoOptions, type PpoSettings } from '../options.ts';
import { ppoPresets } from '../presets.ts';
import { command } from './command.ts';
import { checkTraining } from './training.ts';

export const ppo = command<PpoSettings>({
  name: 'ppo',
  summary: 'Step 3: train the policy towards the reward, near the SFT model',
  options: ppoOptions,
  input: 'prompts',
  examples: [
    'rlhf ppo --policy sft --reward rm --prompts prompts.jsonl --out policy',
    'rlhf ppo --policy sft --reward rm --prompts p.jsonl --beta 0.02 --gamma 27.8 --pretrain text.jsonl --out policy',
    'rlhf ppo --policy sft --reward cmd:./judge.py --prompts prompts.jsonl --out policy',
  ],
  presets: ppoPresets,
  trains: true,
  complete: (settings) => {
    checkTraining(settings);
    const { policy, reward, pretrain, batchSize, minibatchSize } = settings;
    settings.reference ??= policy;
    if (reward !== undefined && !reward.startsWith('cmd:')) settings.value ??= reward;
    settings.gamma ??= pretrain === undefined ? 0 : 1;
    if (minibatchSize > batchSize)
      throw new UsageError(`--minibatch-size: ${minibatchSize} is more than --batch-size ${batchSize}`);
    const incomplete = policy === undefined || reward === undefined; // a dry run of a preset
    if (settings.gamma > 0 && pretrain === undefined && !incomplete) {
      throw new UsageError(
        `--gamma: ${settings.gamma} needs --pretrain`,
        'give the text of the pretraining distribution, or --gamma 0',
      );
    }
  },
  run: async (context, settings) => (await import('../stages/ppo.ts')).ppo(settings, context),
});
