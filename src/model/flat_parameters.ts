import { RunError, UsageError } from '../errors.ts';
import { bufferOf, isOpen, tf } from '../gpu/backend.ts';
import { gpu } from '../gpu/device.ts';
import type { Parameter } from '../gpu/tape.ts';
import { freeMirror } from '../gpu/mirror.ts';
import { bytesOf, destroy, persistent, readFloats, Tensor, upload, type Storage } from '../gpu/tensor.ts';

/** One tensor as it is stored and named in files and optimiser state. */
export interface NamedTensor {
  name: string;
  shape: readonly number[];
}

/** Where a named tensor lies in its block. */
export interface BlockPart {
  name: string;
  firstRow: number;
  rows: number;
  firstCol: number;
  cols: number;
}

/** A matrix on the device that is used in one product: one named tensor, or several; what none of them fills is zero. */
export interface Block {
  /** What the decoder asks for. */
  key: string;
  parts: BlockPart[];
  rows: number;
  cols: number;
  stride: number;
  decay: boolean;
  /** With f16 storage, the passes read f16 of it. */
  half?: boolean;
}

/** Where rows `from`… of a named tensor lie: chunk, first element and row stride there. */
export interface Place {
  chunk: number;
  offset: number;
  from: number;
  rows: number;
  cols: number;
  stride: number;
}

/** One flat piece of the parameters, of `length` numbers: an optimiser step is a dispatch or two for each. */
export interface Chunk {
  /** f32, or f16 of blocks that are not trained. */
  values: Tensor;
  /** What passes read in place of as many of the first values: to be written anew (`narrow`) when those have changed. */
  half?: Tensor;
  gradients?: Tensor;
  length: number;
  /** Elements 0…decayCount−1 have weight decay. */
  decayCount: number;
}

interface Layout { length: number; decayCount: number; halfCount: number; storage: Storage }

/** From here on the nearest half is infinite. */
const HALF_LIMIT = 65520;

/** Numbers of a chunk of `length` that are read back at once, so that the copy on its way to the host takes little of the device's memory. */
export const readAtOnce = (length: number): number => Math.min(length, Math.max(1 << 18, 128 * Math.ceil(length / 8 / 128)));

/**
 * Parameters on the device, in flat chunks (as large as a binding may be), so that the optimiser, the gradient norm and the
 * moving average take one dispatch a chunk. The values are tfjs variables, where they are f32.
 *
 * With `storage` f16, passes read blocks with `half` as f16: of trainable parameters a copy beside the f32 values, of others
 * the values themselves.
 */
export class FlatParameters<T extends NamedTensor = NamedTensor> {
  readonly chunks: Chunk[] = [];
  private readonly places = new Map<string, Place[]>();
  private readonly parameters = new Map<string, Parameter>();
  private readonly variables: tf.Variable[] = [];

  /**
   * A block larger than a binding is kept in slices of rows. `bindingLimit` in bytes is the device's, unless a test asks for
   * less. Throws RunError where not even a few rows of a block fit.
   */
  constructor(readonly plan: T[], blocks: readonly Block[], readonly trainable: boolean, readonly storage: Storage = 'f32',
    bindingLimit = gpu().maxBinding) {
    const isHalf = ({ half = false }: Block): boolean => storage === 'f16' && half;
    const unit = 256 / bytesOf(storage);
    const rank = (b: Block): number => (isHalf(b) ? 0 : b.decay ? 1 : 2);
    const ordered = [0, 1, 2].flatMap((r) => blocks.filter((b) => rank(b) === r));
    const layouts: Layout[] = [];
    const slices = new Map<Block, Slice[]>();
    for (const block of ordered) {
      const kind = isHalf(block) && !trainable ? 'f16' : 'f32';
      const limit = Math.floor(bindingLimit / bytesOf(kind) / unit) * unit;
      // Slices start at multiples of 64 rows, so that every view of rows or columns starts on a binding boundary.
      const fit = Math.floor(limit / block.stride);
      const most = fit >= block.rows ? block.rows : fit - (fit % 64);
      if (most === 0) throw new RunError(`tensor ${block.key}: 64 rows of ${block.stride * 4} bytes exceed what this device binds`);
      const made: Slice[] = [];
      for (let firstRow = 0; firstRow < block.rows; firstRow += most) {
        const rows = Math.min(most, block.rows - firstRow);
        const size = Math.ceil((rows * block.stride) / unit) * unit;
        let last = layouts.at(-1);
        if (!last || last.storage !== kind || last.length + size > limit) {
          layouts.push((last = { length: 0, decayCount: 0, halfCount: 0, storage: kind }));
        }
        made.push({ chunk: layouts.length - 1, offset: last.length, firstRow, rows });
        last.length += size;
        if (block.decay) last.decayCount = last.length;
        if (isHalf(block)) last.halfCount = last.length;
      }
      slices.set(block, made);
    }
    for (const { length, decayCount, halfCount, storage: kind } of layouts) {
      const values = kind === 'f16' ? persistent(length, 1, 1, kind) : this.variable(length);
      const half = trainable && halfCount > 0 ? persistent(halfCount, 1, 1, 'f16') : undefined;
      this.chunks.push({ values, half, gradients: trainable ? persistent(length, 1, 1) : undefined, length, decayCount });
    }
    for (const block of blocks) {
      const { key, cols, stride } = block;
      const made = slices.get(block)!;
      const views = made.map(({ chunk, offset, firstRow, rows }) => {
        const view = (flat: Tensor): Tensor =>
          new Tensor(flat.buffer, rows, cols, stride, offset * bytesOf(flat.storage), flat.storage);
        const { values, half, gradients } = this.chunks[chunk];
        return { name: key, value: view(half && isHalf(block) ? half : values), grad: gradients && view(gradients), firstRow };
      });
      this.parameters.set(key, views.length === 1 ? views[0] : { ...views[0], slices: views });
      for (const part of block.parts) this.places.set(part.name, made.flatMap((slice) => overlap(part, slice, stride)));
    }
  }

  private variable(length: number): Tensor {
    if (!isOpen(gpu().device)) return persistent(length, 1, 1); // on paper
    const variable = tf.variable(tf.zeros([length]), false);
    this.variables.push(variable);
    return new Tensor(bufferOf(variable), length, 1, 1);
  }

  /** Bytes that the values, their f16 copies and the gradients take on the device. */
  get bytes(): number {
    return this.chunks.reduce((sum, { values, half, gradients }) => sum + values.bytes + (half?.bytes ?? 0) + (gradients?.bytes ?? 0), 0);
  }

  /** The parameter of a block's key. */
  get(key: string): Parameter {
    const parameter = this.parameters.get(key);
    if (!parameter) throw new Error(`this model has no parameter ${key}`);
    return parameter;
  }

  find(key: string): Parameter | undefined {
    return this.parameters.get(key);
  }

  /** How many numbers the named tensors have, padding left out. */
  get count(): number {
    return this.plan.reduce((sum, t) => sum + t.shape.reduce((a, b) => a * b, 1), 0);
  }

  /** Where a named tensor lies: one place, or one for each slice that holds rows of it. */
  locate(name: string): Place[] {
    const places = this.places.get(name);
    if (!places) throw new Error(`this model has no tensor ${name}`);
    return places;
  }

  /**
   * Fills every tensor (of the values, or of flats laid out like them) from `read`: planned shapes, without padding. Throws
   * UsageError where a value exceeds f16 that is to be stored so.
   */
  load(read: (name: string) => Float32Array, flats: readonly Tensor[] = this.chunks.map((c) => c.values)): void {
    for (const [chunk, { values: own, half, length }] of this.chunks.entries()) {
      const halved = flats[chunk] !== own ? 0 : own.storage === 'f16' ? length : half?.rows ?? 0;
      const flat = new Float32Array(length);
      for (const { name } of this.plan) {
        const places = this.locate(name).filter((place) => place.chunk === chunk);
        if (places.length === 0) continue;
        const values = read(name);
        if (places[0].offset < halved) checkRange(name, values);
        for (const place of places) unpack(values, flat, place, true);
      }
      upload(flats[chunk], flat);
      if (half && flats[chunk] === own) upload(half, flat.subarray(0, half.rows));
    }
  }

  /** Reads tensors of one kind (the values, gradients, or optimiser moments laid out like them) back under their names. */
  async save(flats: readonly Tensor[] = this.chunks.map((c) => c.values)): Promise<Map<string, Float32Array>> {
    const result = new Map(this.plan.map(({ name, shape }) => [name, new Float32Array(shape.reduce((x, y) => x * y, 1))]));
    for (const [chunk, flat] of flats.entries()) {
      const host = new Float32Array(flat.rows);
      const part = readAtOnce(flat.rows);
      for (let first = 0; first < flat.rows; first += part) host.set(await readFloats(flat.rowRange(first, Math.min(part, flat.rows - first))), first);
      for (const { name } of this.plan) {
        for (const place of this.locate(name)) if (place.chunk === chunk) unpack(result.get(name)!, host, place, false);
      }
    }
    return result;
  }

  /** Flat tensors of the chunks' lengths, filled with zeros: optimiser moments, averages. */
  like(): Tensor[] {
    return this.chunks.map(({ length }) => persistent(length, 1, 1));
  }

  dispose(): void {
    for (const { values, half, gradients } of this.chunks) {
      if (values.storage === 'f16') destroy(values);
      else freeMirror(values.buffer); // a variable's, which tfjs may use again
      destroy(...[half, gradients].filter((t) => t !== undefined));
    }
    for (const variable of this.variables) variable.dispose();
  }
}

interface Slice { chunk: number; offset: number; firstRow: number; rows: number }

/** The part's rows that a slice of its block holds. */
function overlap(part: BlockPart, slice: Slice, stride: number): Place[] {
  const begin = Math.max(part.firstRow, slice.firstRow);
  const end = Math.min(part.firstRow + part.rows, slice.firstRow + slice.rows);
  if (end <= begin) return [];
  const offset = slice.offset + (begin - slice.firstRow) * stride + part.firstCol;
  return [{ chunk: slice.chunk, offset, from: begin - part.firstRow, rows: end - begin, cols: part.cols, stride }];
}

function checkRange(name: string, values: Float32Array): void {
  const large = values.find((x) => Math.abs(x) >= HALF_LIMIT);
  if (large !== undefined) throw new UsageError(`--dtype f16: ${name} holds ${large}, and f16 ends at 65504`, 'leave --dtype away: f32');
}

/** Copies rows between a dense array and their place in a flat, row-padded one. */
function unpack(dense: Float32Array, flat: Float32Array, { offset, from, rows, cols, stride }: Place, toFlat: boolean): void {
  for (let r = 0; r < rows; r++) {
    const at = (from + r) * cols;
    if (toFlat) flat.set(dense.subarray(at, at + cols), offset + r * stride);
    else dense.set(flat.subarray(offset + r * stride, offset + r * stride + cols), at);
  }
}
