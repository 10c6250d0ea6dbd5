import type { Head, ModelConfig, RopeScaling } from './config.ts';

type Json = Record<string, unknown>;

/** Keys of a source config that say nothing about the model we write, or say what is no longer true. */
const NOT_CARRIED = [
  '_name_or_path',
  'architectures',
  'auto_map',
  'dtype',
  'torch_dtype',
  'id2label',
  'label2id',
  'num_labels',
  'problem_type',
  'quantization_config',
  'rlhf',
  'rope_parameters',
  'rope_scaling',
  'transformers_version',
  'transformers.js_config',
];

const CLASSES = {
  gpt2: { lm: 'GPT2LMHeadModel', reward: 'GPT2ForSequenceClassification' },
  llama: { lm: 'LlamaForCausalLM', reward: 'LlamaForSequenceClassification' },
  qwen2: { lm: 'Qwen2ForCausalLM', reward: 'Qwen2ForSequenceClassification' },
} as const;

/**
 * The `config.json` with which transformers 4.57 builds the same model.
 * @param carried config.json of the model this one came from: keys we do not know (dropout rates, say) are kept
 * @param extras keys set last, such as `dtype` and `rlhf`
 */
export function configToHf(config: ModelConfig, head: Head, extras: Json = {}, carried: Json = {}): Json {
  const kept = Object.fromEntries(Object.entries(carried).filter(([key]) => !NOT_CARRIED.includes(key)));
  return {
    ...kept,
    architectures: [CLASSES[config.family][head]],
    model_type: config.family,
    vocab_size: config.vocabSize,
    ...(config.family === 'gpt2' ? gpt2Keys(config) : llamaKeys(config)),
    initializer_range: config.initializerRange,
    tie_word_embeddings: config.tied,
    bos_token_id: config.bosId ?? null,
    eos_token_id: eosIds(config, carried),
    pad_token_id: config.padId ?? null,
    // Without these transformers takes a reward model to have two labels.
    ...(head === 'reward' ? { id2label: { 0: 'LABEL_0' }, label2id: { LABEL_0: 0 } } : {}),
    dtype: 'float32',
    ...extras,
  };
}

/** A list of ends in the source stays a list while its first is still our EOS. */
function eosIds(config: ModelConfig, carried: Json): unknown {
  const source = carried['eos_token_id'];
  if (Array.isArray(source) && source[0] === config.eosId) return source;
  return config.eosId ?? null;
}

function gpt2Keys(config: ModelConfig): Json {
  return {
    n_embd: config.width,
    n_layer: config.layers,
    n_head: config.heads,
    n_inner: config.hidden === 4 * config.width ? null : config.hidden,
    n_positions: config.context,
    activation_function: config.activation,
    layer_norm_epsilon: config.normEps,
  };
}

function llamaKeys(config: ModelConfig): Json {
  const { ropeScaling: scaling } = config;
  return {
    hidden_size: config.width,
    intermediate_size: config.hidden,
    num_hidden_layers: config.layers,
    num_attention_heads: config.heads,
    num_key_value_heads: config.kvHeads,
    head_dim: config.headDim,
    max_position_embeddings: config.context,
    hidden_act: config.activation,
    rms_norm_eps: config.normEps,
    rope_theta: config.ropeTheta,
    rope_scaling: scaling ? ropeKeys(scaling) : null,
    ...(config.family === 'llama' ? { attention_bias: config.bias.qkv, mlp_bias: config.bias.mlp } : {}),
  };
}

function ropeKeys(scaling: RopeScaling): Json {
  const { kind, factor } = scaling;
  if (kind === 'linear' || kind === 'dynamic') return { rope_type: kind, factor };
  const original_max_position_embeddings = scaling.originalContext;
  if (kind === 'llama3') {
    const { lowFreqFactor, highFreqFactor } = scaling;
    return { rope_type: kind, factor, low_freq_factor: lowFreqFactor, high_freq_factor: highFreqFactor, original_max_position_embeddings };
  }
  const { betaFast, betaSlow, attention, truncate } = scaling;
  return {
    rope_type: kind,
    factor,
    original_max_position_embeddings,
    beta_fast: betaFast,
    beta_slow: betaSlow,
    attention_factor: attention,
    truncate,
  };
}
