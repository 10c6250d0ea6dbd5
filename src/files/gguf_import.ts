import { mkdir } from 'node:fs/promises';
import {
  configFromHf,
  FAMILIES,
  tensorPlan,
  type Family,
  type ModelConfig,
  type PlannedTensor,
} from '../model/config.ts';
import { outputError } from './atomic.ts';
import { openGguf, type GgufFile } from './gguf.ts';
import { GgufMetadata, shortestFloat } from './gguf_metadata.ts';
import { ggufPlace, reorderRotary, transpose } from './gguf_names.ts';
import { llama3Scaling, ROTARY_FACTORS } from './gguf_rotary.ts';
import { endIds, specialTokenIds, tokenizerFromGguf } from './gguf_tokenizer.ts';
import { show } from './json.ts';
import { writeModel } from './model_folder_write.ts';
import { checkFinite } from './safetensors.ts';

type Json = Record<string, unknown>;

/**
 * Makes a Hugging Face folder of a GGUF language model: weights dequantised, config, tokenizer and chat template
 * rebuilt from the metadata.
 * @throws UsageError naming the file, and the key or tensor that is malformed or not supported; no model is written then
 */
export async function importGguf(
  path: string,
  out: string,
  dtype: 'F32' | 'F16' | 'BF16' = 'F32',
): Promise<ModelConfig> {
  const file = openGguf(path);
  try {
    const config = configFromGguf(file);
    const tokenizerFrom = tokenizerFromGguf(file);
    const plan = tensorPlan(config, 'lm');
    checkTensors(file, plan, config);
    await mkdir(out, { recursive: true }).catch((error: unknown) => {
      throw outputError(error, out);
    });
    const tensors = plan.map((planned) => ({ ...planned, data: () => readPlanned(file, planned, config) }));
    const ends = endIds(new GgufMetadata(file));
    const generationConfig = ends.length > 1 ? { bos_token_id: config.bosId, eos_token_id: ends, pad_token_id: config.padId } : undefined;
    await writeModel(out, { config, head: 'lm', tensors, tokenizerFrom, generationConfig, dtype });
    return config;
  } finally {
    file.close();
  }
}

/**
 * The model that a GGUF file's metadata describes.
 * @throws UsageError naming an architecture, a key or a kind of rotary scaling that is not supported
 */
export function configFromGguf(file: GgufFile): ModelConfig {
  const metadata = new GgufMetadata(file);
  const family = metadata.text('general.architecture');
  if (!FAMILIES.includes(family as Family)) {
    throw metadata.fail(`general.architecture ${show(family)} is not supported (supported: ${FAMILIES.join(', ')})`);
  }
  const key = (name: string) => `${family}.${name}`;
  const embedding = file.tensors.get('token_embd.weight');
  if (!embedding) throw metadata.fail('tensor "token_embd.weight" is missing');
  const ids = specialTokenIds(metadata);
  const shared: Json = {
    model_type: family,
    vocab_size: embedding.shape[0],
    tie_word_embeddings: !file.tensors.has('output.weight'),
    bos_token_id: ids.bos ?? null,
    eos_token_id: ids.eos ?? null,
    pad_token_id: ids.padding ?? null,
  };
  const own = family === 'gpt2' ? gpt2Keys(metadata, key) : llamaKeys(metadata, key, file);
  return configFromHf({ ...shared, ...own }, file.path);
}

function gpt2Keys(metadata: GgufMetadata, key: (name: string) => string): Json {
  return {
    n_embd: metadata.number(key('embedding_length')),
    n_layer: metadata.number(key('block_count')),
    n_head: metadata.number(key('attention.head_count')),
    n_inner: metadata.number(key('feed_forward_length')),
    n_positions: metadata.number(key('context_length')),
    layer_norm_epsilon: shortestFloat(metadata.number(key('attention.layer_norm_epsilon'))),
  };
}

function llamaKeys(metadata: GgufMetadata, key: (name: string) => string, file: GgufFile): Json {
  if (metadata.number(key('expert_count'), undefined))
    throw metadata.fail(`${key('expert_count')}: experts are not supported`);
  const width = metadata.number(key('embedding_length'));
  const heads = metadata.number(key('attention.head_count'));
  const headDim = metadata.number(key('attention.key_length'), undefined) ?? Math.floor(width / heads);
  const valueDim = metadata.number(key('attention.value_length'), undefined) ?? headDim;
  const rotaryDim = metadata.number(key('rope.dimension_count'), undefined) ?? headDim;
  if (rotaryDim !== headDim || valueDim !== headDim) {
    throw metadata.fail(
      `heads of ${headDim} channels with ${rotaryDim} rotary and ${valueDim} value channels are not supported`,
    );
  }
  const theta = shortestFloat(metadata.number(key('rope.freq_base'), undefined) ?? 10000);
  return {
    hidden_size: width,
    intermediate_size: metadata.number(key('feed_forward_length')),
    num_hidden_layers: metadata.number(key('block_count')),
    num_attention_heads: heads,
    num_key_value_heads: metadata.number(key('attention.head_count_kv'), undefined) ?? heads,
    head_dim: headDim,
    max_position_embeddings: metadata.number(key('context_length')),
    rms_norm_eps: shortestFloat(metadata.number(key('attention.layer_norm_rms_epsilon'))),
    rope_theta: theta,
    rope_scaling: rotaryScaling(metadata, key, file, headDim, theta),
    attention_bias: file.tensors.has('blk.0.attn_q.bias'),
    mlp_bias: file.tensors.has('blk.0.ffn_up.bias'),
  };
}

/** config.json's rope_scaling; Llama 3's is told by a tensor of factors. */
function rotaryScaling(
  metadata: GgufMetadata,
  key: (name: string) => string,
  file: GgufFile,
  headDim: number,
  theta: number,
): Json | null {
  const kind = metadata.text(key('rope.scaling.type'), undefined) ?? 'none';
  if (kind !== 'none' && kind !== 'linear') {
    throw metadata.fail(`${key('rope.scaling.type')} ${show(kind)} is not supported (supported: none, linear)`);
  }
  if (!file.tensors.has(ROTARY_FACTORS)) {
    return kind === 'none' ? null : { rope_type: kind, factor: shortestFloat(metadata.number(key('rope.scaling.factor'))) };
  }
  const factors = file.read(ROTARY_FACTORS);
  if (kind === 'none' && factors.length === headDim / 2 && factors.every((factor) => factor === 1)) return null;
  const scaling = kind === 'none' ? llama3Scaling(factors, headDim, theta) : undefined;
  if (!scaling) {
    const found = kind === 'none' ? `the factors [${[...factors.subarray(0, 4)].map(shortestFloat).join(', ')}, …]` : `factors beside ${kind} scaling`;
    throw metadata.fail(`tensor "${ROTARY_FACTORS}": ${found} are not those of Llama 3's rotary scaling, the only kind supported`);
  }
  const { factor, lowFreqFactor, highFreqFactor, originalContext } = scaling;
  return {
    rope_type: 'llama3',
    factor,
    low_freq_factor: lowFreqFactor,
    high_freq_factor: highFreqFactor,
    original_max_position_embeddings: originalContext,
  };
}

function checkTensors(file: GgufFile, plan: PlannedTensor[], config: ModelConfig): void {
  const metadata = new GgufMetadata(file);
  const used = new Set<string>(config.family === 'llama' ? [ROTARY_FACTORS] : []);
  for (const planned of plan) {
    const { name, shape } = ggufPlace(planned, config);
    const tensor = file.tensors.get(name);
    if (!tensor) throw metadata.fail(`tensor ${show(name)} is missing`);
    if (tensor.shape.join() !== shape.join()) {
      throw metadata.fail(`tensor ${show(name)}: the metadata asks for shape [${shape}], found [${tensor.shape}]`);
    }
    used.add(name);
  }
  const stray = file.names.find((name) => !used.has(name));
  if (stray !== undefined)
    throw metadata.fail(`tensor ${show(stray)} has no place in the model that the metadata describes`);
}

function readPlanned(file: GgufFile, planned: PlannedTensor, config: ModelConfig): Float32Array {
  const { name, shape, change } = ggufPlace(planned, config);
  const values = file.read(name);
  checkFinite(values, name, file.path);
  if (change === 'transpose') return transpose(values, shape[0]!, shape[1]!);
  return change === 'rotary' ? reorderRotary(values, config.headDim, shape[1] ?? 1, 'hf') : values;
}
