// How channels between two tensors are scaled before matrices are rounded to 8 bits.
import type { ModelConfig, PlannedTensor } from '../model/config.ts';
import { rotaryFrequencies } from '../model/rotary.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import type { ModelFolder } from './model_folder.ts';

/**
 * A text of several kinds whose first tokens show how large each channel is. The kind matters
 * little: with tokens drawn at random the error of SmolLM2's gate and up grows by a tenth.
 */
const TEXT = `The lighthouse keeper's daughter had counted 41 ships by noon, and none of them carried a letter. "They will come \
on Thursday," said her father; "they always do." She did not believe him.

def mean(values):
    return sum(values) / len(values)  # fails for []

Q: What is the largest planet?
A: Jupiter, about 318 times as heavy as Earth.
Dear Ms. Weber, thank you for your order (No. 2207-B, €35.90). Das Wetter bleibt heute kühl; demain il fera plus chaud.
- Rinse the rice, then cook it for 12 minutes.
`;
/** Half as many raise the error by 1 %; 1,280 tokens of other texts lower it by 3 %. */
const TOKENS = 128;
/** Share of the mean below which a channel counts as this large: a channel that nothing uses must not be blown up. */
const FLOOR = 1e-3;

/** The tokens for `channelScales`. */
export function scaleTokens(tokenizer: Tokenizer, { vocabSize, context }: ModelConfig): number[] {
  const ids = tokenizer.encodePrompt(TEXT).filter((id) => id < vocabSize);
  return ids.length ? ids.slice(0, Math.min(TOKENS, context)) : [0];
}

/**
 * For each layer [C]: what the columns of gate and up are multiplied with and the norm before them is divided by, which leaves
 * the model the function that it was. llama.cpp multiplies Q8_0 matrices with activations that it rounds to 8 bits too, in
 * blocks of 32 whose step is set by the largest of them: some channels are many times larger than their neighbours, which are
 * lost then. With rms a of a channel's activations and b of its column, both roundings together are least where both are
 * scaled to √(a b), that is, by s = √(a / b) (SmoothQuant, Xiao et al. 2023, with α = 1/2). Each token counts relative to its
 * own product, as the first may have activations a thousand times those of the others. Runs the tokens through the model in
 * float64, with one tensor in memory at a time.
 * @param model with RMS norms and a gated MLP
 * @param ids tokens of one text, at most the context
 * @param progress is told after each layer; other work of the program has its turn then
 */
export async function channelScales(model: ModelFolder, ids: readonly number[], progress?: (layers: number) => void): Promise<Float64Array[]> {
  const { config } = model;
  const { width: C, hidden, heads, kvHeads, headDim } = config;
  const count = ids.length;
  const stream = new Float64Array(count * C);
  ids.forEach((id, t) => stream.set(model.read('model.embed_tokens.weight', id * C, C), t * C));
  const biases = new Set(model.plan.map(({ name }) => name).filter((name) => name.endsWith('.bias')));
  const all: Float64Array[] = [];
  for (let layer = 0; layer < config.layers; layer++) {
    const at = `model.layers.${layer}`;
    const read = (name: string): Float32Array => model.read(`${at}.${name}`);
    const linear = (name: string, x: Float64Array, outputs: number): Float64Array => {
      const y = multiply(x, read(`${name}.weight`), count, outputs);
      if (biases.has(`${at}.${name}.bias`)) addRow(y, read(`${name}.bias`));
      return y;
    };
    const first = normalise(stream, read('input_layernorm.weight'), config.normEps);
    const q = rotate(linear('self_attn.q_proj', first, heads * headDim), config, heads);
    const k = rotate(linear('self_attn.k_proj', first, kvHeads * headDim), config, kvHeads);
    const attended = attend(q, k, linear('self_attn.v_proj', first, kvHeads * headDim), config);
    add(stream, linear('self_attn.o_proj', attended, C));
    const second = normalise(stream, read('post_attention_layernorm.weight'), config.normEps);
    const gate = linear('mlp.gate_proj', second, hidden);
    const up = linear('mlp.up_proj', second, hidden);
    all.push(balance(relativeSquares(second, [gate, up], count), columnSquares(['mlp.gate_proj.weight', 'mlp.up_proj.weight'], read, C)));
    const act = gate.map((x, i) => (x / (1 + Math.exp(-x))) * up[i]!);
    if (layer + 1 < config.layers) add(stream, linear('mlp.down_proj', act, C));
    progress?.(layer + 1);
    await new Promise(setImmediate);
  }
  return all;
}

/** Applies the scales to a tensor of the plan, in place. */
export function scaleTensor({ name }: PlannedTensor, values: Float32Array, scales: readonly Float64Array[]): void {
  const [, layer, part] = /^model\.layers\.(\d+)\.(post_attention_layernorm|mlp\.gate_proj|mlp\.up_proj)\.weight$/.exec(name) ?? [];
  if (part === undefined) return;
  const scale = scales[Number(layer)]!;
  for (let i = 0; i < values.length; i++) {
    if (part === 'post_attention_layernorm') values[i]! /= scale[i]!;
    else values[i]! *= scale[i % scale.length]!;
  }
}

/** s = √(a / b), a and b relative to their means, from sums of squares. */
function balance(activations: Float64Array, columns: Float64Array): Float64Array {
  const relative = (squares: Float64Array): Float64Array => {
    const roots = squares.map(Math.sqrt);
    const mean = roots.reduce((sum, x) => sum + x, 0) / roots.length;
    return mean > 0 ? roots.map((x) => x / mean + FLOOR) : roots.fill(1);
  };
  const [a, b] = [relative(activations), relative(columns)];
  return a.map((x, j) => Math.sqrt(x / b[j]!));
}

/** Σ over tokens of each channel's square, every token divided by the square of its products. */
function relativeSquares(input: Float64Array, products: readonly Float64Array[], count: number): Float64Array {
  const sums = new Float64Array(input.length / count);
  for (let t = 0; t < count; t++) {
    let square = 0;
    for (const product of products) {
      const outputs = product.length / count;
      for (let i = t * outputs; i < (t + 1) * outputs; i++) square += product[i]! ** 2;
    }
    if (square > 0) for (let j = 0; j < sums.length; j++) sums[j]! += input[t * sums.length + j]! ** 2 / square;
  }
  return sums;
}

/** Σ of each column's squares over matrices [rows, columns]. */
function columnSquares(names: readonly string[], read: (name: string) => Float32Array, columns: number): Float64Array {
  const sums = new Float64Array(columns);
  for (const name of names) {
    const matrix = read(name);
    for (let at = 0; at < matrix.length; at += columns) {
      for (let j = 0; j < columns; j++) sums[j]! += matrix[at + j]! ** 2;
    }
  }
  return sums;
}

/** x [count, inputs] · Wᵀ, W [outputs, inputs]; four tokens and two rows at a time, which halves the loads. */
function multiply(x: Float64Array, matrix: Float32Array, count: number, outputs: number): Float64Array {
  const inputs = x.length / count;
  const y = new Float64Array(count * outputs);
  for (let first = 0; first < count; first += 4) {
    // Past the end the last token or row is done again, to the same result.
    const token = (i: number): number => Math.min(first + i, count - 1);
    const [t0, t1, t2, t3] = [token(0), token(1), token(2), token(3)];
    const activations = (t: number): Float64Array => x.subarray(t * inputs, (t + 1) * inputs);
    const [x0, x1, x2, x3] = [activations(t0), activations(t1), activations(t2), activations(t3)];
    for (let row = 0; row < outputs; row += 2) {
      const other = Math.min(row + 1, outputs - 1);
      const [w, v] = [row * inputs, other * inputs];
      let w0 = 0, w1 = 0, w2 = 0, w3 = 0, v0 = 0, v1 = 0, v2 = 0, v3 = 0;
      for (let c = 0; c < inputs; c++) {
        const a = matrix[w + c]!;
        const b = matrix[v + c]!;
        const p = x0[c]!;
        const q = x1[c]!;
        const r = x2[c]!;
        const s = x3[c]!;
        w0 += a * p;
        w1 += a * q;
        w2 += a * r;
        w3 += a * s;
        v0 += b * p;
        v1 += b * q;
        v2 += b * r;
        v3 += b * s;
      }
      y[t0 * outputs + row] = w0;
      y[t1 * outputs + row] = w1;
      y[t2 * outputs + row] = w2;
      y[t3 * outputs + row] = w3;
      y[t0 * outputs + other] = v0;
      y[t1 * outputs + other] = v1;
      y[t2 * outputs + other] = v2;
      y[t3 * outputs + other] = v3;
    }
  }
  return y;
}

function add(x: Float64Array, y: Float64Array): void {
  for (let i = 0; i < x.length; i++) x[i]! += y[i]!;
}

function addRow(x: Float64Array, row: Float32Array): void {
  for (let i = 0; i < x.length; i++) x[i]! += row[i % row.length]!;
}

/** RMS norm of each row. */
function normalise(x: Float64Array, weight: Float32Array, eps: number): Float64Array {
  const C = weight.length;
  const out = new Float64Array(x.length);
  for (let at = 0; at < x.length; at += C) {
    let squares = 0;
    for (let j = 0; j < C; j++) squares += x[at + j]! ** 2;
    const inverse = 1 / Math.sqrt(squares / C + eps);
    for (let j = 0; j < C; j++) out[at + j] = x[at + j]! * inverse * weight[j]!;
  }
  return out;
}

/** Rotates the two halves of each head [count, heads, D] by its token's angles, in place. */
function rotate(x: Float64Array, config: ModelConfig, heads: number): Float64Array {
  const D = config.headDim;
  const half = D / 2;
  for (const [i, frequency] of rotaryFrequencies(config).entries()) {
    for (let head = 0; head < x.length / D; head++) {
      const angle = Math.floor(head / heads) * frequency;
      const [cos, sin, at] = [Math.cos(angle), Math.sin(angle), head * D + i];
      const [a, b] = [x[at]!, x[at + half]!];
      x[at] = a * cos - b * sin;
      x[at + half] = b * cos + a * sin;
    }
  }
  return x;
}

/** Causal attention, query heads in groups that share a key and value head: [count, heads · D]. */
function attend(q: Float64Array, k: Float64Array, v: Float64Array, { heads, kvHeads, headDim: D }: ModelConfig): Float64Array {
  const out = new Float64Array(q.length);
  const count = q.length / (heads * D);
  for (let head = 0; head < heads; head++) {
    const shared = Math.floor(head / (heads / kvHeads));
    for (let t = 0; t < count; t++) {
      const query = (t * heads + head) * D;
      const key = (u: number): number => (u * kvHeads + shared) * D;
      const scores = Array.from({ length: t + 1 }, (_, u) => {
        let score = 0;
        for (let i = 0; i < D; i++) score += q[query + i]! * k[key(u) + i]!;
        return score / Math.sqrt(D);
      });
      const largest = Math.max(...scores);
      const weights = scores.map((score) => Math.exp(score - largest));
      const sum = weights.reduce((total, weight) => total + weight, 0);
      for (const [u, weight] of weights.entries()) {
        for (let i = 0; i < D; i++) out[query + i]! += (weight / sum) * v[key(u) + i]!;
      }
    }
  }
  return out;
}
