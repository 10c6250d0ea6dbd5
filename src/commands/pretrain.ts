import { UsageError } from '../errors.ts';
import { pretrainOptions, type PretrainSettings } from '../options.ts';
import { command } from './command.ts';
import { checkTraining } from './training.ts';

export const pretrain = command<PretrainSettings>({
  name: 'pretrain',
  summary: 'Make a base model, and its tokenizer, from text; or go on pretraining one',
  options: pretrainOptions,
  input: 'data',
  examples: [
    'rlhf pretrain --data text.jsonl --vocab-size 1024 --layers 4 --width 64 --context 128 --out base',
    'rlhf pretrain --model base --data more.txt --lr 1e-4 --out base2',
  ],
  trains: true,
  complete: (settings) => {
    checkTraining(settings);
    const { arch, width, heads } = settings;
    settings.kvHeads ??= heads;
    // The SwiGLU block has three matrices where GPT-2's has two: 8/3 of the width, a multiple of 4, keeps the
    // parameters equal.
    settings.hidden ??= arch === 'gpt2' ? 4 * width : 4 * Math.ceil((8 * width) / 12);
    settings.tokenizerData ??= settings.data;
    if (width % heads !== 0) throw new UsageError(`--heads: ${heads} does not divide --width ${width}`);
    if (arch === 'llama' && (width / heads) % 2 !== 0) {
      throw new UsageError(`--heads: ${heads} gives odd head size ${width / heads}, rotary positions need an even one`);
    }
    if (heads % settings.kvHeads !== 0)
      throw new UsageError(`--kv-heads: ${settings.kvHeads} does not divide --heads ${heads}`);
    if (arch === 'gpt2' && settings.kvHeads !== heads) throw new UsageError('--kv-heads: gpt2 has as many as --heads');
    if (settings.model !== undefined && settings.tokenizer !== undefined) {
      throw new UsageError('--tokenizer cannot be given with --model, which has its own');
    }
  },
  run: async (context, settings) => (await import('../stages/pretrain.ts')).pretrain(settings, context),
});
