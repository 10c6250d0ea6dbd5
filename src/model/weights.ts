import { bufferOf, tf } from '../gpu/backend.ts';
import { gpu } from '../gpu/device.ts';
import type { Parameter } from '../gpu/tape.ts';
import { pad4, persistent, readFloats, Tensor, upload } from '../gpu/tensor.ts';
import { RunError } from '../errors.ts';
import { tensorPlan, type Head, type ModelConfig, type PlannedTensor } from './config.ts';

/** A run of weights stored as one matrix: one planned tensor, or several that are used in one product (q, k, v; gate, up). */
interface Block {
  /** What the decoder asks for. */
  key: string;
  parts: { planned: PlannedTensor; firstRow: number; rows: number }[];
  rows: number;
  cols: number;
  stride: number;
  decay: boolean;
}

interface Place { chunk: number; offset: number }

/** One flat piece of the weights: an optimiser step is a dispatch for each. All of `length` float32. */
export interface Chunk {
  values: Tensor;
  gradients?: Tensor;
  length: number;
  /** Elements 0…decayCount−1 have weight decay. */
  decayCount: number;
}

/**
 * All weights of a model on the device, in flat chunks (as large as a binding may be), so that the optimiser, the gradient
 * norm and the moving average take one dispatch a chunk. The values are tfjs variables.
 */
export class Weights {
  readonly chunks: Chunk[] = [];
  readonly plan: PlannedTensor[];
  private readonly blocks: Block[];
  private readonly places = new Map<string, Place>();
  private readonly parameters = new Map<string, Parameter>();
  private readonly variables: tf.Variable[] = [];

  constructor(readonly config: ModelConfig, readonly head: Head, readonly trainable: boolean) {
    this.plan = tensorPlan(config, head);
    this.blocks = fuse(this.plan);
    const limit = Math.floor(gpu().maxBinding / 4 / 64) * 64;
    const ordered = [...this.blocks.filter((b) => b.decay), ...this.blocks.filter((b) => !b.decay)];
    const sizes: { length: number; decayCount: number }[] = [{ length: 0, decayCount: 0 }];
    for (const block of ordered) {
      const size = Math.ceil((block.rows * block.stride) / 64) * 64;
      if (size > limit) {
        throw new RunError(`tensor ${block.key} takes ${size * 4} bytes, but this device binds at most ${limit * 4}`);
      }
      if (sizes.at(-1)!.length + size > limit) sizes.push({ length: 0, decayCount: 0 });
      const last = sizes.at(-1)!;
      this.places.set(block.key, { chunk: sizes.length - 1, offset: last.length });
      last.length += size;
      if (block.decay) last.decayCount = last.length;
    }
    for (const { length, decayCount } of sizes) {
      const variable = tf.variable(tf.zeros([length]), false);
      this.variables.push(variable);
      const values = new Tensor(bufferOf(variable), length, 1, 1);
      this.chunks.push({ values, gradients: trainable ? persistent(length, 1, 1) : undefined, length, decayCount });
    }
    for (const block of this.blocks) {
      const { chunk, offset } = this.places.get(block.key)!;
      const view = (flat: Tensor): Tensor => new Tensor(flat.buffer, block.rows, block.cols, block.stride, offset * 4);
      const { values, gradients } = this.chunks[chunk];
      this.parameters.set(block.key, { name: block.key, value: view(values), grad: gradients && view(gradients) });
    }
  }

  /** The parameter of a key: a transformers name, or for fused ones the name with `qkv` or `gate_up` as its part. */
  get(key: string): Parameter {
    const parameter = this.parameters.get(key);
    if (!parameter) throw new Error(`this model has no parameter ${key}`);
    return parameter;
  }

  find(key: string): Parameter | undefined {
    return this.parameters.get(key);
  }

  /** Numbers in the model, padding left out. */
  get count(): number {
    return this.plan.reduce((sum, t) => sum + t.shape.reduce((a, b) => a * b, 1), 0);
  }

  /** Where a planned tensor lies: its chunk, first element and row stride there. */
  locate(name: string): { chunk: number; offset: number; rows: number; cols: number; stride: number } {
    for (const block of this.blocks) {
      const part = block.parts.find((p) => p.planned.name === name);
      if (!part) continue;
      const { chunk, offset } = this.places.get(block.key)!;
      return { chunk, offset: offset + part.firstRow * block.stride, rows: part.rows, cols: block.cols, stride: block.stride };
    }
    throw new Error(`this model has no tensor ${name}`);
  }

  /** Fills every tensor (of the values, or of flats laid out like them) from `read`: planned shapes, without padding. */
  load(read: (name: string) => Float32Array, flats: readonly Tensor[] = this.chunks.map((c) => c.values)): void {
    for (const [chunk, { length }] of this.chunks.entries()) {
      const flat = new Float32Array(length);
      for (const { name } of this.plan) {
        const place = this.locate(name);
        if (place.chunk !== chunk) continue;
        unpack(read(name), flat, place, true);
      }
      upload(flats[chunk], flat);
    }
  }

  /** Reads tensors of one kind (the values, gradients, or optimiser moments laid out like them) back under their names. */
  async save(flats: readonly Tensor[] = this.chunks.map((c) => c.values)): Promise<Map<string, Float32Array>> {
    const result = new Map<string, Float32Array>();
    for (const [chunk, flat] of flats.entries()) {
      const host = await readFloats(flat);
      for (const { name } of this.plan) {
        const place = this.locate(name);
        if (place.chunk !== chunk) continue;
        const values = new Float32Array(place.rows * place.cols);
        unpack(values, host, place, false);
        result.set(name, values);
      }
    }
    return result;
  }

  /** Flat tensors of the chunks' lengths, filled with zeros: optimiser moments, averages. */
  like(): Tensor[] {
    return this.chunks.map(({ length }) => persistent(length, 1, 1));
  }

  dispose(): void {
    for (const variable of this.variables) variable.dispose();
    for (const { gradients } of this.chunks) gradients?.buffer.destroy();
  }
}

/** Copies between a dense array and its place in a flat, row-padded one. */
function unpack(dense: Float32Array, flat: Float32Array, at: { offset: number; rows: number; cols: number; stride: number },
  toFlat: boolean): void {
  const { offset, rows, cols, stride } = at;
  for (let r = 0; r < rows; r++) {
    if (toFlat) flat.set(dense.subarray(r * cols, (r + 1) * cols), offset + r * stride);
    else dense.set(flat.subarray(offset + r * stride, offset + r * stride + cols), r * cols);
  }
}

const FUSED: [RegExp, string][] = [
  [/\.(q_proj|k_proj|v_proj)\.(weight|bias)$/, '.qkv.'],
  [/\.(gate_proj|up_proj)\.(weight|bias)$/, '.gate_up.'],
];

function fuse(plan: PlannedTensor[]): Block[] {
  const blocks = new Map<string, Block>();
  for (const planned of plan) {
    const rule = FUSED.find(([pattern]) => pattern.test(planned.name));
    const key = rule ? planned.name.replace(rule[0], `${rule[1]}$2`) : planned.name;
    const matrix = planned.shape.length === 2;
    // A vector is a matrix of one row for norms and biases; fused biases lie end to end in that row.
    const [rows, cols] = matrix ? planned.shape : [planned.shape[0], 1];
    const stride = matrix ? pad4(cols) : 1;
    const block = blocks.get(key) ?? { key, parts: [], rows: 0, cols, stride, decay: planned.decay };
    if (block.cols !== cols) throw new Error(`${planned.name}: ${cols} columns beside ${block.cols}`);
    block.parts.push({ planned, firstRow: block.rows, rows });
    block.rows += rows;
    blocks.set(key, block);
  }
  return [...blocks.values()];
}
