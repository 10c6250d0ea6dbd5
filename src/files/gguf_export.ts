import { rename, rm } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { UsageError } from '../errors.ts';
import type { ModelConfig, PlannedTensor } from '../model/config.ts';
import { Tokenizer } from '../text/tokenizer.ts';
import { withBases } from './adapter.ts';
import { asideName, outputError, releaseAside, syncPath } from './atomic.ts';
import { ggufPlace, reorderRotary, transpose } from './gguf_names.ts';
import { ROTARY_FACTORS, rotaryFactors } from './gguf_rotary.ts';
import { channelScales, scaleTensor, scaleTokens } from './gguf_scale.ts';
import { ggufTokenizer, strippingTokens } from './gguf_tokenizer_export.ts';
import { show } from './json.ts';
import { writeGguf, type GgufEntry, type NewGgufTensor } from './gguf_write.ts';
import type { ModelFolder } from './model_folder.ts';

/** How the matrices of an exported file are stored; vectors and learned positions stay float32. */
export type GgufStorage = 'f32' | 'f16' | 'q8_0';

const FILE_TYPES = { f32: 0, f16: 1, q8_0: 7 } as const;

/**
 * Writes a language model as one GGUF file that llama.cpp opens: weights, hyperparameters, tokenizer, chat template.
 * Rows that are no multiple of 32 values cannot be Q8_0 and are stored in F16. In products with Q8_0 llama.cpp rounds the
 * activations to 8 bits as well, which costs more than the rounding of the weights: in a llama or qwen2 only gate, up and an
 * untied embedding are Q8_0, with the channels that gate and up read scaled first (gguf_scale.ts); a gpt2 is Q8_0 throughout
 * (figures for other layouts and scales: scripts/check-llama-cpp.mjs).
 * @param model an open folder; its weights may be those of an adapter's base with the adapter merged
 * @param tokenizerDir folder with the tokenizer
 * @param warn is told of what llama.cpp will do otherwise
 * @param progress is told how many layers' channels have been looked at, of how many, for q8_0; may throw to end the export
 * @throws UsageError where llama.cpp has no such model or tokenizer, naming what it lacks; RunError where the file cannot
 * be written: whatever was there before is still there then
 */
export async function exportGguf(
  model: ModelFolder,
  tokenizerDir: string,
  path: string,
  storage: GgufStorage,
  progress?: (done: number, all: number) => void,
  warn?: (line: string) => void,
): Promise<void> {
  const { config } = model;
  if (model.head === 'reward') {
    throw new UsageError(`${model.dir}: is a reward model; llama.cpp runs language models only`);
  }
  const tokenizer = await Tokenizer.load(tokenizerDir, [...withBases(model.dir)]);
  const stripping = strippingTokens(tokenizer);
  if (stripping.length > 0) warn?.(`${stripping.map(show).join(', ')}: the tokenizer takes white space beside it away, llama.cpp does not`);
  const entries = [
    ...modelEntries(config, `${model.dir}/config.json`, basename(resolve(model.dir))),
    { key: 'general.file_type', type: 'u32', value: FILE_TYPES[storage] } as const,
    ...(storage === 'q8_0' ? [{ key: 'general.quantization_version', type: 'u32', value: 2 } as const] : []),
    ...ggufTokenizer(tokenizer, join(tokenizerDir, 'tokenizer.json'), config.vocabSize),
  ];
  const scales = storage === 'q8_0' && config.norm === 'rms'
    ? await channelScales(model, scaleTokens(tokenizer, config), (done) => progress?.(done, config.layers))
    : undefined;
  const tensors = model.plan.map((planned) => newTensor(model, planned, storage, scales));
  if (config.ropeScaling?.kind === 'llama3') {
    const factors = rotaryFactors(config.headDim, config.ropeTheta, config.ropeScaling);
    tensors.unshift({ name: ROTARY_FACTORS, shape: [factors.length], type: 'F32', data: factors });
  }
  const aside = asideName(path, 'tmp');
  try {
    await writeGguf(aside, entries, tensors);
    await rename(aside, path);
    await syncPath(dirname(resolve(path)));
  } catch (error) {
    await rm(aside, { force: true }).catch(() => undefined);
    throw outputError(error, path);
  } finally {
    releaseAside(aside);
  }
}

/** The hyperparameters under llama.cpp's names. */
function modelEntries(config: ModelConfig, file: string, name: string): GgufEntry[] {
  const { family, ropeScaling, activation } = config;
  const u32 = (key: string, value: number): GgufEntry => ({ key: `${family}.${key}`, type: 'u32', value });
  const f32 = (key: string, value: number): GgufEntry => ({ key: `${family}.${key}`, type: 'f32', value });
  const shared: GgufEntry[] = [
    { key: 'general.architecture', type: 'string', value: family },
    { key: 'general.name', type: 'string', value: name },
    u32('vocab_size', config.vocabSize),
    u32('context_length', config.context),
    u32('embedding_length', config.width),
    u32('block_count', config.layers),
    u32('feed_forward_length', config.hidden),
    u32('attention.head_count', config.heads),
  ];
  if (family === 'gpt2') {
    if (activation !== 'gelu_new') {
      throw new UsageError(`${file}: activation_function "${activation}" is not what llama.cpp's gpt2 has (gelu_new)`);
    }
    return [...shared, f32('attention.layer_norm_epsilon', config.normEps)];
  }
  if (ropeScaling?.kind === 'yarn') throw new UsageError(`${file}: rope_type "yarn" cannot be exported`);
  return [
    ...shared,
    u32('attention.head_count_kv', config.kvHeads),
    u32('attention.key_length', config.headDim),
    u32('attention.value_length', config.headDim),
    f32('attention.layer_norm_rms_epsilon', config.normEps),
    u32('rope.dimension_count', config.headDim),
    f32('rope.freq_base', config.ropeTheta),
    ...(ropeScaling?.kind === 'linear'
      ? [
          { key: `${family}.rope.scaling.type`, type: 'string', value: 'linear' } as const,
          f32('rope.scaling.factor', ropeScaling.factor),
        ]
      : []),
  ];
}

function newTensor(model: ModelFolder, planned: PlannedTensor, storage: GgufStorage, scales?: readonly Float64Array[]): NewGgufTensor {
  const { config } = model;
  const { name, shape, change } = ggufPlace(planned, config);
  const narrow = storage !== 'f32' && planned.shape.length === 2 && name !== 'position_embd.weight';
  const eight = storage === 'q8_0' && shape.at(-1)! % 32 === 0 && !keptHalf(name, config);
  const data = (): Float32Array => {
    const values = model.read(planned.name);
    if (scales) scaleTensor(planned, values, scales);
    if (change === 'transpose') return transpose(values, planned.shape[0]!, planned.shape[1]!);
    return change === 'rotary' ? reorderRotary(values, config.headDim, planned.shape[1] ?? 1, 'gguf') : values;
  };
  return { name, shape, type: !narrow ? 'F32' : eight ? 'Q8_0' : 'F16', data };
}

/**
 * The matrices of a llama or qwen2 that q8_0 leaves in F16: those whose rounding costs most for each byte saved. The head
 * (where it is tied, the embedding), the attention's four, and the MLP's last matrix: its input, a product of two, has
 * single channels so much larger than the rest that no scale helps.
 */
function keptHalf(name: string, { norm, tied }: ModelConfig): boolean {
  if (norm !== 'rms') return false;
  return name === (tied ? 'token_embd.weight' : 'output.weight') || /\.(attn_[qkv]|attn_output|ffn_down)\.weight$/.test(name);
}
