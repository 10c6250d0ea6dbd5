import { UsageError } from '../errors.ts';
import { camelCase } from '../option_types.ts';
import { newModelDefaults, pretrainOptions, type NewModelSettings, type PretrainSettings } from '../options.ts';
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
    refuseUnused(settings);
    if (settings.model !== undefined) return;
    if (settings.loraRank) throw new UsageError('--lora-rank: an adapter needs a model to stand on, and a new one is not kept', 'name one with --model');
    const { vocabSize, ...shape } = newModelDefaults;
    const { arch, width, heads } = Object.assign(settings, { ...shape, ...given(settings) }) as NewModelSettings;
    if (settings.tokenizer === undefined) {
      settings.vocabSize ??= vocabSize;
      settings.tokenizerData ??= settings.data;
    }
    settings.kvHeads ??= heads;
    // The SwiGLU block has three matrices where GPT-2's has two: 8/3 of the width, a multiple of 4, keeps the
    // parameters equal.
    settings.hidden ??= arch === 'gpt2' ? 4 * width : 4 * Math.ceil((8 * width) / 12);
    if (width % heads !== 0) throw new UsageError(`--heads: ${heads} does not divide --width ${width}`);
    if (arch === 'llama' && (width / heads) % 2 !== 0) {
      throw new UsageError(`--heads: ${heads} gives odd head size ${width / heads}, rotary positions need an even one`);
    }
    if (heads % settings.kvHeads! !== 0)
      throw new UsageError(`--kv-heads: ${settings.kvHeads} does not divide --heads ${heads}`);
    if (arch === 'gpt2' && settings.kvHeads !== heads) throw new UsageError('--kv-heads: gpt2 has as many as --heads');
  },
  run: async (context, settings) => (await import('../stages/pretrain.ts')).pretrain(settings, context),
});

/** What belongs to a new model or a new tokenizer is of no use beside one that is given. */
function refuseUnused(settings: PretrainSettings): void {
  const tokenizer = ['tokenizer-data'];
  const model = ['tokenizer', ...tokenizer, 'vocab-size', 'arch', 'layers', 'width', 'heads', 'kv-heads', 'hidden', 'context'];
  for (const [option, unused] of [['model', model], ['tokenizer', tokenizer]] as const) {
    if (settings[option] === undefined) continue;
    const name = unused.find((each) => settings[camelCase(each) as 'layers'] !== undefined);
    if (name) throw new UsageError(`--${name} cannot be given with --${option}, which has its own`);
  }
}

const given = (settings: PretrainSettings): object =>
  Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
