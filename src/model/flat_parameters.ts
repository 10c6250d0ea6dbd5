import { RunError, UsageError } from '../errors.ts';
import { firstNonFinite } from '../files/float_formats.ts';
import { isOpen, tf } from '../gpu/backend.ts';
import { gpu } from '../gpu/device.ts';
import type { Parameter } from '../gpu/tape.ts';
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

/** The most numbers of a chunk that are copied to or from the host at once: 16 MB, enough that no time is lost between two copies. */
const COPIED_AT_ONCE = 1 << 22;

/** Numbers of a chunk of `length` that are read back at once: few MB, so that the copy on its way to the host takes little of the device's memory. */
export const readAtOnce = (length: number): number => Math.min(length, COPIED_AT_ONCE, Math.max(1 << 18, 128 * Math.ceil(length / 8 / 128)));
/** Such parts that stay on the host: matrices, norms and their neighbours in files lie apart on the device. */
const PARTS_KEPT = 3;

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
    bindingLimit = Math.min(gpu().maxBinding, gpu().maxShared)) {
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
    const values = persistent(length, 1, 1);
    if (!isOpen(gpu().device)) return values; // on paper
    const { buffer } = values;
    this.variables.push(tf.variable(tf.tensor({ buffer, zeroCopy: true }, [length], 'float32'), false));
    return values;
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

  /** As `fill`, from whole tensors: `read` is asked for each once, or once for each chunk that holds rows of it. */
  load(read: (name: string) => Float32Array, flats?: readonly Tensor[]): void {
    let last: { name?: string; values: Float32Array } = { values: new Float32Array(0) };
    this.fill((name, from, count) => {
      if (last.name !== name) last = { name, values: read(name) };
      return last.values.subarray(from, from + count);
    }, flats);
  }

  /**
   * Fills every tensor (of the values, or of flats laid out like them) a few MB at a time, from `read`: `count` numbers of a tensor
   * from its number `from` on, without padding. Throws UsageError where a value exceeds f16 that is to be stored so.
   */
  fill(read: (name: string, from: number, count: number) => Float32Array, flats: readonly Tensor[] = this.chunks.map((c) => c.values)): void {
    const host = new Float32Array(Math.min(COPIED_AT_ONCE, Math.max(0, ...this.chunks.map(({ length }) => length))));
    for (const [chunk, { values: own, half, length }] of this.chunks.entries()) {
      const halved = flats[chunk] !== own ? 0 : own.storage === 'f16' ? length : half?.rows ?? 0;
      const held = this.plan.flatMap(({ name }) => this.locate(name).filter((place) => place.chunk === chunk).map((place) => ({ name, place })));
      for (let first = 0; first < length; first += host.length) {
        const part = host.subarray(0, Math.min(host.length, length - first)).fill(0);
        for (const { name, place } of held) {
          const begin = numbersBefore(place, first);
          const end = numbersBefore(place, first + part.length);
          if (begin === end) continue;
          const values = read(name, begin, end - begin);
          if (place.offset < halved) checkRange(name, values);
          copyRows(values, begin, part, { ...place, offset: place.offset - first }, true);
        }
        upload(flats[chunk].rowRange(first, part.length), part);
        const halves = half && flats[chunk] === own ? Math.min(part.length, half.rows - first) : 0;
        if (halves > 0) upload(half!.rowRange(first, halves), part.subarray(0, halves));
      }
    }
  }

  /**
   * A function that reads one tensor of one kind (the values, gradients, or optimiser moments laid out like them) back from the device. They
   * come in parts of chunks, of which the last few stay on the host for the tensors beside: those that are read must not change meanwhile.
   */
  reader(flats: readonly Tensor[] = this.chunks.map((c) => c.values)): (name: string) => Promise<Float32Array> {
    const shapes = new Map(this.plan.map(({ name, shape }) => [name, shape]));
    const parts: { flat: Tensor; first: number; numbers: Float32Array }[] = [];
    const partOf = async (flat: Tensor, first: number): Promise<Float32Array> => {
      const at = parts.findIndex((part) => part.flat === flat && part.first === first);
      const [part] = at >= 0 ? parts.splice(at, 1)
        : [{ flat, first, numbers: await readFloats(flat.rowRange(first, Math.min(readAtOnce(flat.rows), flat.rows - first))) }];
      parts.unshift(part);
      parts.splice(PARTS_KEPT);
      return part.numbers;
    };
    return async (name) => {
      const values = new Float32Array(shapes.get(name)!.reduce((x, y) => x * y, 1));
      for (const place of this.locate(name)) {
        const flat = flats[place.chunk];
        const step = readAtOnce(flat.rows);
        for (let first = place.offset - (place.offset % step); first < endOf(place); first += step) {
          const part = await partOf(flat, first);
          const [begin, end] = [first, first + part.length].map((position) => numbersBefore(place, position));
          copyRows(values.subarray(begin, end), begin, part, { ...place, offset: place.offset - first }, false);
        }
      }
      return values;
    };
  }

  /** All tensors of one kind under their names (see `reader`). */
  async save(flats?: readonly Tensor[]): Promise<Map<string, Float32Array>> {
    const read = this.reader(flats);
    const result = new Map<string, Float32Array>();
    for (const { name } of this.plan) result.set(name, await read(name));
    return result;
  }

  /** Name of the first tensor of one kind that holds NaN or an infinity. */
  async broken(flats?: readonly Tensor[]): Promise<string | undefined> {
    const read = this.reader(flats);
    for (const { name } of this.plan) if (firstNonFinite(await read(name)) >= 0) return name;
    return undefined;
  }

  /**
   * The tensors of one kind for a file that is written: each is read when its turn comes.
   * @param broken what to throw where a number of a tensor is not finite
   */
  toWrite(broken: (name: string) => Error, flats?: readonly Tensor[]): { name: string; shape: readonly number[]; data: () => Promise<Float32Array> }[] {
    const read = this.reader(flats);
    return this.plan.map(({ name, shape }) => ({
      name,
      shape,
      async data() {
        const values = await read(name);
        if (firstNonFinite(values) >= 0) throw broken(name);
        return values;
      },
    }));
  }

  /** Flat tensors of the chunks' lengths, filled with zeros: optimiser moments, averages. */
  like(): Tensor[] {
    return this.chunks.map(({ length }) => persistent(length, 1, 1));
  }

  dispose(): void {
    for (const variable of this.variables) variable.dispose(); // the buffer stays: it is not tfjs's
    for (const { values, half, gradients } of this.chunks) destroy(...[values, half, gradients].filter((t) => t !== undefined));
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

/** How many of a tensor's numbers, from its first on, come before element `position` of the place's chunk; within what the place holds. */
function numbersBefore({ offset, from, rows, cols, stride }: Place, position: number): number {
  const distance = Math.max(0, position - offset);
  const row = Math.min(rows, Math.floor(distance / stride));
  return (from + row) * cols + (row < rows ? Math.min(cols, distance % stride) : 0);
}

/** One past the last number of a place. */
const endOf = ({ offset, rows, cols, stride }: Place): number => offset + (rows - 1) * stride + cols;

/** Copies numbers of a tensor, the first of them its number `begin`, to or from their place in a flat, row-padded array. */
function copyRows(values: Float32Array, begin: number, flat: Float32Array, { offset, from, cols, stride }: Place, toFlat: boolean): void {
  for (let done = 0; done < values.length;) {
    const col = (begin + done) % cols;
    const row = (begin + done - col) / cols;
    const next = stride === cols ? values.length : Math.min(values.length, done + cols - col);
    const at = offset + (row - from) * stride + col;
    if (toFlat) flat.set(values.subarray(done, next), at);
    else values.set(flat.subarray(at, at + next - done), done);
    done = next;
  }
}
