import { UsageError } from '../errors.ts';
import { show } from '../files/json.ts';

export { configToHf } from './config_to_hf.ts';
export { parameterCount, tensorPlan, type PlannedTensor } from './tensor_plan.ts';

export const FAMILIES = ['gpt2', 'llama', 'qwen2'] as const;
export type Family = (typeof FAMILIES)[number];

/**
 * What the decoder's last hidden state feeds: the vocabulary (language model) or one number (reward and value models).
 */
export type Head = 'lm' | 'reward';

/** How rotary frequencies are stretched for contexts longer than the model was first trained on. */
export type RopeScaling =
  | { kind: 'linear'; factor: number }
  /** Grows with a row beyond the context, which no row here is: the same as none. */
  | { kind: 'dynamic'; factor: number }
  /** Peng et al. 2023; `attention` multiplies cosines and sines, `truncate` takes the ramp's ends to whole channels. */
  | { kind: 'yarn'; factor: number; originalContext: number; betaFast: number; betaSlow: number; attention: number; truncate: boolean }
  | { kind: 'llama3'; factor: number; lowFreqFactor: number; highFreqFactor: number; originalContext: number };

/** One decoder, whatever its family: all that the forward pass needs to know. */
export interface ModelConfig {
  family: Family;
  /** V: rows of the embedding. */
  vocabSize: number;
  /** C: channels of the residual stream. */
  width: number;
  layers: number;
  /** H: query heads. */
  heads: number;
  /** Key and value heads; a divisor of `heads` (grouped-query attention where smaller). */
  kvHeads: number;
  /** D: channels of one head; heads × headDim need not be the width. */
  headDim: number;
  /** Channels between the two (or three) matrices of the MLP. */
  hidden: number;
  /** The most tokens a row may have. */
  context: number;
  norm: 'layer' | 'rms';
  normEps: number;
  positions: 'learned' | 'rope';
  /** Base of the rotary frequencies (unused with learned positions). */
  ropeTheta: number;
  ropeScaling?: RopeScaling;
  activation: 'gelu_new' | 'gelu' | 'silu';
  /** down(act(gate(x)) · up(x)) instead of down(act(up(x))). */
  gated: boolean;
  bias: { qkv: boolean; attnOut: boolean; mlp: boolean };
  /** The output matrix is the embedding. */
  tied: boolean;
  bosId?: number;
  eosId?: number;
  padId?: number;
  /** Standard deviation of freshly drawn weights. */
  initializerRange: number;
}

type Json = Record<string, unknown>;

/**
 * Reads a Hugging Face `config.json` of a supported family, with the defaults that transformers has where a key is
 * missing. What would change the numbers and is not supported is refused by name.
 * @param file path that messages name
 * @throws UsageError naming the file and the key
 */
export function configFromHf(json: Json, file: string): ModelConfig {
  const keys = new Keys(json, file);
  const family = json['model_type'];
  if (!FAMILIES.includes(family as Family)) {
    const found = family === undefined ? 'model_type is missing' : `model_type ${show(family)} is not supported`;
    throw new UsageError(`${file}: ${found} (supported: ${FAMILIES.join(', ')})`);
  }
  const quantised = json['quantization_config'];
  if (quantised !== undefined && quantised !== null) {
    const method = (quantised as Json)['quant_method'];
    throw new UsageError(
      `${file}: quantization_config (quant_method ${show(method)}) is not supported`,
      'use the model in f32, f16 or bf16',
    );
  }
  return family === 'gpt2' ? gpt2Config(keys) : llamaConfig(keys, family as 'llama' | 'qwen2');
}

function gpt2Config(keys: Keys): ModelConfig {
  const width = keys.size('n_embd', 2 ** 16);
  const heads = keys.size('n_head', 2 ** 12);
  if (width % heads !== 0) throw keys.fail('n_head', `${heads} does not divide n_embd ${width}`);
  const activation = keys.text('activation_function', 'gelu_new');
  keys.refuse('scale_attn_by_inverse_layer_idx', true);
  keys.refuse('scale_attn_weights', false);
  keys.refuse('add_cross_attention', true);
  keys.refuse('is_encoder_decoder', true);
  // reorder_and_upcast_attn only says in which precision the scores are computed: ours is float32 anyway.
  keys.flag('reorder_and_upcast_attn', false);
  return {
    family: 'gpt2',
    vocabSize: keys.size('vocab_size', 2 ** 24),
    width,
    layers: keys.size('n_layer', 1024),
    heads,
    kvHeads: heads,
    headDim: width / heads,
    hidden: keys.size('n_inner', 2 ** 20, 4 * width),
    context: keys.size('n_positions', 2 ** 24),
    norm: 'layer',
    normEps: keys.positive('layer_norm_epsilon', 1e-5),
    positions: 'learned',
    ropeTheta: 10000,
    activation: keys.choice('activation_function', activation, {
      gelu_new: 'gelu_new',
      gelu_pytorch_tanh: 'gelu_new',
      gelu: 'gelu',
    }),
    gated: false,
    bias: { qkv: true, attnOut: true, mlp: true },
    tied: keys.flag('tie_word_embeddings', true),
    ...keys.specialIds(),
    initializerRange: keys.positive('initializer_range', 0.02),
  };
}

function llamaConfig(keys: Keys, family: 'llama' | 'qwen2'): ModelConfig {
  const width = keys.size('hidden_size', 2 ** 16);
  const heads = keys.size('num_attention_heads', 2 ** 12);
  // Missing and null differ in Qwen2: its class has 32 as the default of the argument.
  const kvMissing = family === 'qwen2' && keys.json['num_key_value_heads'] === undefined ? 32 : heads;
  const kvHeads = keys.size('num_key_value_heads', 2 ** 12, kvMissing);
  if (heads % kvHeads !== 0) throw keys.fail('num_key_value_heads', `${kvHeads} does not divide the ${heads} heads`);
  const headDim = keys.size('head_dim', 2 ** 12, Math.floor(width / heads));
  if (headDim % 2 !== 0) throw keys.fail('head_dim', `${headDim} is odd, rotary positions need pairs`);
  const layers = keys.size('num_hidden_layers', 1024);
  const context = keys.size('max_position_embeddings', 2 ** 24);
  const rope = keys.rope(context);
  if (family === 'qwen2') refuseSlidingWindow(keys, layers, context);
  const attentionBias = family === 'llama' && keys.flag('attention_bias', false);
  const mlpBias = family === 'llama' && keys.flag('mlp_bias', false);
  return {
    family,
    vocabSize: keys.size('vocab_size', 2 ** 24),
    width,
    layers,
    heads,
    kvHeads,
    headDim,
    hidden: keys.size('intermediate_size', 2 ** 20),
    context,
    norm: 'rms',
    normEps: keys.positive('rms_norm_eps', 1e-6),
    positions: 'rope',
    ...rope,
    activation: keys.choice('hidden_act', keys.text('hidden_act', 'silu'), { silu: 'silu', swish: 'silu' }),
    gated: true,
    bias: { qkv: family === 'qwen2' || attentionBias, attnOut: attentionBias, mlp: mlpBias },
    tied: keys.flag('tie_word_embeddings', false),
    ...keys.specialIds(),
    initializerRange: keys.positive('initializer_range', 0.02),
  };
}

function refuseSlidingWindow(keys: Keys, layers: number, context: number): void {
  if (!keys.flag('use_sliding_window', false)) return;
  const window = keys.size('sliding_window', 2 ** 24, 4096);
  const types = keys.json['layer_types'];
  const sliding = Array.isArray(types)
    ? types.includes('sliding_attention')
    : layers > keys.size('max_window_layers', 2 ** 20, 28, 0);
  if (sliding && window < context) throw keys.fail('use_sliding_window', `true (window ${window}) is not supported`);
}

/** Typed access to the keys of a config.json; every failure names the file, the key and the value. */
class Keys {
  constructor(
    readonly json: Json,
    private readonly file: string,
  ) {}

  fail(key: string, what: string): UsageError {
    return new UsageError(`${this.file}: ${key}: ${what}`);
  }

  /** A whole number from `min` to `max`; a missing or null key gives `missing`, or fails without one. */
  size(key: string, max: number, missing?: number, min = 1, from: Json = this.json): number {
    const value = from[key] ?? missing;
    if (value === undefined) throw this.fail(key, 'is missing');
    if (!Number.isInteger(value) || (value as number) < min || (value as number) > max) {
      throw this.fail(key, `must be a whole number from ${min} to ${max}, but is ${show(value)}`);
    }
    return value as number;
  }

  positive(key: string, missing?: number, from: Json = this.json): number {
    const value = from[key] ?? missing;
    if (typeof value !== 'number' || !(value > 0) || !Number.isFinite(value)) {
      throw this.fail(key, `must be a positive number, but is ${show(value)}`);
    }
    return value;
  }

  flag(key: string, missing: boolean): boolean {
    const value = this.json[key] ?? missing;
    if (typeof value !== 'boolean') throw this.fail(key, `must be true or false, but is ${show(value)}`);
    return value;
  }

  text(key: string, missing: string): string {
    const value = this.json[key] ?? missing;
    if (typeof value !== 'string') throw this.fail(key, `must be a text, but is ${show(value)}`);
    return value;
  }

  choice<T>(key: string, value: string, known: Record<string, T>): T {
    if (!Object.hasOwn(known, value)) {
      throw this.fail(key, `${show(value)} is not supported (supported: ${Object.keys(known).join(', ')})`);
    }
    return known[value]!;
  }

  /** Fails where a flag has the value that is not supported. */
  refuse(key: string, unsupported: boolean): void {
    if (this.flag(key, !unsupported) === unsupported) throw this.fail(key, `${unsupported} is not supported`);
  }

  /** bos, eos and pad. Ids outside the vocabulary (-1, or a default that was never adapted) count as absent. */
  specialIds(): Pick<ModelConfig, 'bosId' | 'eosId' | 'padId'> {
    const vocabSize = this.size('vocab_size', 2 ** 24);
    const ids: Pick<ModelConfig, 'bosId' | 'eosId' | 'padId'> = {};
    for (const [name, key] of [
      ['bosId', 'bos_token_id'],
      ['eosId', 'eos_token_id'],
      ['padId', 'pad_token_id'],
    ] as const) {
      const value = this.json[key] ?? undefined;
      // Several ends are for generation, which reads generation_config.json; the first is the model's own.
      const id: unknown = Array.isArray(value) ? value[0] : value;
      if (id !== undefined && !Number.isInteger(id)) throw this.fail(key, `must be a token id, but is ${show(value)}`);
      if (id !== undefined && (id as number) >= 0 && (id as number) < vocabSize) ids[name] = id as number;
    }
    return ids;
  }

  /** Rotary base and scaling: `rope_theta` and `rope_scaling`, or both in `rope_parameters` (newer files). */
  rope(context: number): Pick<ModelConfig, 'ropeTheta' | 'ropeScaling'> {
    const key = this.json['rope_parameters'] ? 'rope_parameters' : 'rope_scaling';
    const scaling = this.json[key] ?? {};
    if (typeof scaling !== 'object' || Array.isArray(scaling)) {
      throw this.fail(key, `must be an object, but is ${show(scaling)}`);
    }
    const rope = scaling as Json;
    const partial = rope['partial_rotary_factor'] ?? this.json['partial_rotary_factor'] ?? 1;
    if (partial !== 1) throw this.fail('partial_rotary_factor', `${show(partial)} is not supported`);
    const theta = this.positive('rope_theta', 10000, rope['rope_theta'] === undefined ? this.json : rope);
    const kind = rope['rope_type'] ?? rope['type'] ?? 'default';
    if (kind === 'default') return { ropeTheta: theta };
    const factor = () => this.positive('factor', undefined, rope);
    if (kind === 'linear' || kind === 'dynamic') return { ropeTheta: theta, ropeScaling: { kind, factor: factor() } };
    if (kind === 'yarn') return { ropeTheta: theta, ropeScaling: this.yarn(rope, context) };
    if (kind !== 'llama3') {
      throw this.fail(key, `rope_type ${show(kind)} is not supported (supported: default, linear, dynamic, yarn, llama3)`);
    }
    const low = this.positive('low_freq_factor', undefined, rope);
    const high = this.positive('high_freq_factor', undefined, rope);
    if (high <= low) throw this.fail('high_freq_factor', `${high} must be larger than low_freq_factor ${low}`);
    const originalContext = this.size('original_max_position_embeddings', 2 ** 24, undefined, 1, rope);
    const llama3 = { kind, factor: factor(), lowFreqFactor: low, highFreqFactor: high, originalContext } as const;
    return { ropeTheta: theta, ropeScaling: llama3 };
  }

  /** YaRN with the defaults of transformers 5 (4.57 takes context / original context for the factor). */
  private yarn(rope: Json, context: number): RopeScaling {
    const original = this.json['original_max_position_embeddings'] ?? rope['original_max_position_embeddings'] ?? context;
    const originalContext = this.size('original_max_position_embeddings', 2 ** 24, undefined, 1, { original_max_position_embeddings: original });
    const factor = this.positive('factor', context / originalContext, rope);
    const scale = (by: number): number => (factor <= 1 ? 1 : 0.1 * by * Math.log(factor) + 1);
    const both = Boolean(rope['mscale'] && rope['mscale_all_dim']);
    const mscale = both ? scale(this.positive('mscale', 1, rope)) / scale(this.positive('mscale_all_dim', 1, rope)) : scale(1);
    const truncate = rope['truncate'] ?? true;
    if (typeof truncate !== 'boolean') throw this.fail('truncate', `must be true or false, but is ${show(truncate)}`);
    const [betaFast, betaSlow] = [this.positive('beta_fast', 32, rope), this.positive('beta_slow', 1, rope)];
    if (betaFast < betaSlow) throw this.fail('beta_fast', `${betaFast} must not be smaller than beta_slow ${betaSlow}`);
    return { kind: 'yarn', factor, originalContext, betaFast, betaSlow, attention: this.positive('attention_factor', mscale, rope), truncate };
  }
}
