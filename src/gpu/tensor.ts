import { arena, Value } from './arena.ts';
import { submit } from './backend.ts';
import { halvesOf, halfValues } from '../files/float_formats.ts';
import { askForBuffer, checkDevice, gpu } from './device.ts';
import { freeMirror, written } from './mirror.ts';

/** How a tensor's numbers are stored: f32 (and other 32-bit kinds), or f16, which only where the adapter has `shader-f16`. */
export type Storage = 'f32' | 'f16';

/** Bytes of a stored number. */
export const bytesOf = (storage: Storage): 2 | 4 => (storage === 'f16' ? 2 : 4);

/**
 * A view of numbers in a device buffer: `rows` rows of `cols`, `stride` numbers from row to row.
 * The stride of a matrix is a multiple of 4 and the padding columns hold zeros, so that kernels may read vec4s.
 */
export class Tensor {
  constructor(
    readonly buffer: GPUBuffer,
    readonly rows: number,
    readonly cols: number,
    readonly stride: number,
    /** First byte in the buffer: a multiple of 256. */
    readonly offset = 0,
    readonly storage: Storage = 'f32',
  ) {}

  /** Bytes from the first number to the end of the last row, as far as the buffer goes, in whole words. */
  get bytes(): number {
    return Math.min(wholeWords(this.rows * this.stride * bytesOf(this.storage)), this.buffer.size - this.offset);
  }

  /** The same numbers seen as rows `first` to `first + count`; the start must fall on a multiple of 256 bytes. */
  rowRange(first: number, count: number): Tensor {
    const offset = this.offset + first * this.stride * bytesOf(this.storage);
    if (offset % 256) throw new Error(`row ${first} does not start on a binding boundary`);
    return new Tensor(this.buffer, count, this.cols, this.stride, offset, this.storage);
  }

  /** Columns `first` to `first + count` of all rows; the start must fall on a multiple of 256 bytes. */
  columnRange(first: number, count: number): Tensor {
    const offset = this.offset + first * bytesOf(this.storage);
    if (offset % 256) throw new Error(`column ${first} does not start on a binding boundary`);
    return first === 0 && count === this.cols ? this : new Tensor(this.buffer, this.rows, count, this.stride, offset, this.storage);
  }
}

/** Bytes rounded up to whole 32-bit words. Buffers may be larger than the integers that bit operations know. */
const wholeWords = (bytes: number): number => Math.ceil(bytes / 4) * 4;

/** `n` rounded up to a multiple of 4: the stride of a row of n. */
export const pad4 = (n: number): number => (n + 3) & ~3;

/**
 * Vec4s of a row, for kernels that take one number for a row's width and for the way to the next row. Throws where rows lie further
 * apart, as columns of a wider matrix do: those only products, attention, the sampler and sums of columns take.
 */
export function rowVec4s({ rows, cols, stride }: Tensor): number {
  if (stride !== pad4(cols)) throw new Error(`[${rows},${cols}] with rows ${stride} apart`);
  return stride / 4;
}

/** Scratch values by what stands for their buffer. */
const values = new WeakMap<GPUBuffer, Value>();

/** The value that a buffer stands for, if it is one that lasts no longer than a recorded step. */
export const valueOf = (buffer: GPUBuffer): Value | undefined => values.get(buffer);

/** Whether a buffer stands for memory that recorded steps share, so that its content lasts no longer than a step. */
export const isScratch = (buffer: GPUBuffer): boolean => values.has(buffer);

/** Where a tensor lies on the device; of scratch tensors this is known when their step has been recorded. */
export function placeOf({ buffer, offset }: Pick<Tensor, 'buffer' | 'offset'>): { buffer: GPUBuffer; offset: number } {
  const value = values.get(buffer);
  return value ? { buffer: value.buffer, offset: value.offset + offset } : { buffer, offset };
}

let live: Set<Tensor> | undefined;

/** A tensor of the step that is being recorded, of undefined content; `release` gives it up, or the step's end. */
export function scratch(rows: number, cols: number, stride = pad4(cols), storage: Storage = 'f32'): Tensor {
  if (!live) throw new Error('scratch tensors exist only while a step is recorded');
  const bytes = rows * stride * bytesOf(storage);
  askForBuffer(bytes);
  const value = new Value(bytes);
  const buffer = value as unknown as GPUBuffer; // its size is all that is asked of it before the step is planned
  values.set(buffer, value);
  const tensor = new Tensor(buffer, rows, cols, stride, 0, storage);
  live.add(tensor);
  return tensor;
}

/** Gives scratch tensors up: no kernel recorded later uses them. Other tensors are left alone. */
export function release(...tensors: (Tensor | undefined)[]): void {
  for (const tensor of tensors) if (tensor && live?.delete(tensor)) values.get(tensor.buffer)!.held = false;
}

/** Runs `build` with scratch tensors allowed; what it does not release is kept to the step's end. */
export function withScratch<T>(build: () => T): T {
  if (live) throw new Error('a step is already being recorded');
  live = new Set();
  try {
    return build();
  } finally {
    live = undefined;
  }
}

/** Bytes of device memory that recorded steps share. */
export const arenaBytes = (): number => arena().sizes.reduce((sum, size) => sum + size, 0);

/** The most bytes of scratch tensors that were alive at once: what recorded steps need at least. */
export const mostScratchBytes = (): number => arena().most;

/** A tensor that lives until `destroy`, filled with zeros. */
export function persistent(rows: number, cols: number, stride = pad4(cols), storage: Storage = 'f32'): Tensor {
  const bytes = Math.max(16, wholeWords(rows * stride * bytesOf(storage)));
  askForBuffer(bytes);
  const buffer = gpu().device.createBuffer({ size: bytes, usage: 0x80 | 0x4 | 0x8 });
  return new Tensor(buffer, rows, cols, stride, 0, storage);
}

/** Frees the buffers of persistent tensors and their mirrors, once what has been submitted so far is done with them. */
export function destroy(...tensors: Tensor[]): void {
  for (const { buffer } of tensors) {
    buffer.destroy();
    freeMirror(buffer);
  }
}

/** A persistent column of `n` numbers, stride 1. */
export const vector = (n: number): Tensor => persistent(n, 1, 1);

/**
 * Writes host numbers, `rows × cols` without padding, to a tensor; to f16, each as the nearest half. Ordered with the steps
 * submitted before and after.
 */
export function upload(tensor: Tensor, values: Float32Array | Int32Array | Uint32Array): void {
  const { rows, cols } = tensor;
  if (values.length > rows * cols) throw new Error(`${values.length} values for ${rows} × ${cols}`);
  written(tensor.buffer);
  if (tensor.storage === 'f32') write(tensor, new Uint32Array(values.buffer, values.byteOffset, values.length));
  else write(tensor, halvesOf(values as Float32Array));
}

function write(tensor: Tensor, values: Uint32Array | Uint16Array): void {
  const { rows, cols, stride } = tensor;
  const { buffer, offset } = placeOf(tensor);
  const { queue } = gpu().device;
  const bytes = values.BYTES_PER_ELEMENT;
  const empty = (n: number): typeof values => (bytes === 4 ? new Uint32Array(n) : new Uint16Array(n + (n % 2))); // whole words
  if (stride === cols) {
    let whole = values;
    if (values.byteLength % 4) (whole = empty(values.length)).set(values);
    queue.writeBuffer(buffer, offset, whole as GPUAllowSharedBufferSource);
    return;
  }
  const block = Math.max(1, Math.floor((1 << 24) / stride));
  for (let first = 0; first < rows; first += block) {
    const count = Math.min(block, rows - first);
    const padded = empty(count * stride);
    for (let r = 0; r < count; r++) padded.set(values.subarray((first + r) * cols, (first + r + 1) * cols), r * stride);
    queue.writeBuffer(buffer, offset + first * stride * bytes, padded as GPUAllowSharedBufferSource);
  }
}

/** Reads tensors back, each as its 32-bit numbers without padding (f16 as f32), in one copy and one wait. */
export async function download(...tensors: Tensor[]): Promise<ArrayBuffer[]> {
  return stage(...tensors).read();
}

/** Values on their way to the host: copied when everything submitted before has run. */
export interface Staged {
  /** Waits for them. */
  read(): Promise<ArrayBuffer[]>;
}

/** Submits a copy of tensors for reading later; programs that run afterwards may overwrite the tensors. */
export function stage(...tensors: Tensor[]): Staged {
  const starts: number[] = [];
  let size = 0;
  for (const t of tensors) {
    starts.push(size);
    size += wholeWords(t.bytes);
  }
  askForBuffer(size);
  const staging = gpu().device.createBuffer({ size: Math.max(4, size), usage: 0x1 | 0x8 }); // MAP_READ | COPY_DST
  submit((encoder) => tensors.forEach((t, i) => {
    const { buffer, offset } = placeOf(t);
    if (t.bytes > 0) encoder.copyBufferToBuffer(buffer, offset, staging, starts[i], t.bytes);
  }));
  return {
    async read() {
      await staging.mapAsync(0x1).catch(async (error) => {
        await new Promise((resolve) => setTimeout(resolve)); // a lost device is told of in the next turn
        checkDevice();
        throw error;
      });
      checkDevice();
      const all = staging.getMappedRange();
      const results = tensors.map((t, i) => {
        if (t.stride === t.cols && t.storage === 'f32') return all.slice(starts[i], starts[i] + t.bytes);
        const source = t.storage === 'f32' ? new Uint32Array(all, starts[i], t.rows * t.stride) : widened(all, starts[i], t.rows * t.stride);
        const packed = new Uint32Array(t.rows * t.cols);
        for (let r = 0; r < t.rows; r++) packed.set(source.subarray(r * t.stride, r * t.stride + t.cols), r * t.cols);
        return packed.buffer;
      });
      staging.unmap();
      staging.destroy();
      return results;
    },
  };
}

/** The bits of halves as float32. */
function widened(all: ArrayBuffer, start: number, length: number): Uint32Array {
  const values = halfValues();
  return new Uint32Array(Float32Array.from(new Uint16Array(all, start, length), (bits) => values[bits]).buffer);
}

/** Several staged readings as one. */
export function stagedAll(parts: readonly Staged[]): Staged {
  return {
    async read() {
      const all: ArrayBuffer[] = [];
      for (const part of parts) all.push(...await part.read());
      return all;
    },
  };
}

/** One tensor's float32 values on the host. */
export async function readFloats(tensor: Tensor): Promise<Float32Array> {
  return new Float32Array((await download(tensor))[0]);
}
