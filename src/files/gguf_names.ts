// How llama.cpp's tensors correspond to those of a Hugging Face folder.
import type { ModelConfig } from '../model/config.ts';
import type { PlannedTensor } from '../model/tensor_plan.ts';

/** A tensor's name in GGUF, and how its values lie there. */
export interface GgufPlace {
  name: string;
  /** Shape in the GGUF file, rows first. */
  shape: number[];
  /**
   * 'transpose': GPT-2's [in, out] matrices are [out, in] in GGUF. 'rotary': in llama's query and key rows the two
   * halves of each head are interleaved, since llama.cpp rotates neighbours where transformers rotates i with i +
   * headDim / 2.
   */
  change: 'none' | 'transpose' | 'rotary';
}

const OUTER: Readonly<Record<string, string>> = {
  'transformer.wte': 'token_embd',
  'transformer.wpe': 'position_embd',
  'transformer.ln_f': 'output_norm',
  'model.embed_tokens': 'token_embd',
  'model.norm': 'output_norm',
  lm_head: 'output',
};

const INNER: Readonly<Record<string, string>> = {
  ln_1: 'attn_norm',
  'attn.c_attn': 'attn_qkv',
  'attn.c_proj': 'attn_output',
  ln_2: 'ffn_norm',
  'mlp.c_fc': 'ffn_up',
  'mlp.c_proj': 'ffn_down',
  input_layernorm: 'attn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  post_attention_layernorm: 'ffn_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
};

/** Where GGUF keeps a tensor of a language model's plan. */
export function ggufPlace({ name, shape, layout }: PlannedTensor, config: ModelConfig): GgufPlace {
  const [, module, part] = /^(.+)\.(weight|bias)$/.exec(name)!;
  const [, layer, inner] = /^(?:transformer\.h|model\.layers)\.(\d+)\.(.+)$/.exec(module!) ?? [];
  const mapped = inner === undefined ? OUTER[module!] : INNER[inner];
  if (mapped === undefined) throw new Error(`${name} has no place in GGUF`);
  const rotary = config.family === 'llama' && /self_attn\.[qk]_proj$/.test(module!);
  return {
    name: `${layer === undefined ? '' : `blk.${layer}.`}${mapped}.${part}`,
    shape: layout === 'in_out' ? [...shape].reverse() : shape,
    change: layout === 'in_out' ? 'transpose' : rotary ? 'rotary' : 'none',
  };
}

/** A matrix [rows, columns] as [columns, rows]. */
export function transpose(values: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = values[r * columns + c]!;
  return out;
}

/**
 * Moves the rows of a query or key matrix (or bias, one column) between the two orders, head by head: row p · D/2 + i
 * of transformers (p the half, i the frequency) is row 2 i + p of llama.cpp.
 * @param to the order wanted
 */
export function reorderRotary(values: Float32Array, headDim: number, columns: number, to: 'hf' | 'gguf'): Float32Array {
  const out = new Float32Array(values.length);
  const half = headDim / 2;
  for (let row = 0; row < values.length / columns; row++) {
    const inHead = row % headDim;
    const other = row - inHead + 2 * (inHead % half) + Math.floor(inHead / half);
    const [source, target] = to === 'hf' ? [other, row] : [row, other];
    out.set(values.subarray(source * columns, (source + 1) * columns), target * columns);
  }
  return out;
}
