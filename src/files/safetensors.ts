import { closeSync } from 'node:fs';
import { UsageError } from '../errors.ts';
import { firstNonFinite, halfValues } from './float_formats.ts';
import { duplicateKey, openInput, parseJsonObject, readExactly, refusePointer, show } from './json.ts';

export { writeSafetensors, type NewTensor, type WritableType } from './safetensors_write.ts';

/** Bytes an element has, by the format's type name. Types not listed here are refused. */
export const ELEMENT_BYTES: Readonly<Record<string, number>> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  F8_E4M3: 1,
  F8_E5M2: 1,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
};

/** Where a tensor lies: its stored type, shape, and first and past-the-end byte in the file. */
export interface StoredTensor {
  dtype: string;
  shape: number[];
  begin: number;
  end: number;
}

/** Named tensors on disk, read one at a time. One file, or several shards that look like one. */
export interface TensorSource {
  /** The file (or the index of the shards) that messages name. */
  readonly path: string;
  readonly names: string[];
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly metadata: Readonly<Record<string, string>>;
  /** The file that a tensor lies in. */
  fileOf(name: string): string;
  /**
   * A tensor's values as float32, rows first; stored as F32, F16, BF16 or F64.
   * @param from index of the first value wanted (0), @param count how many (all from there on)
   * @throws UsageError where the name is unknown, the type is not a floating one or the file was cut
   */
  read(name: string, from?: number, count?: number): Float32Array;
  /** A tensor's bytes as they are (integers, flags). */
  readBytes(name: string): Uint8Array;
  close(): void;
}

/** Real headers have some hundred bytes a tensor; the format allows 100 MB, which takes seconds to parse. */
const MAX_HEADER_BYTES = 16 * 2 ** 20;
const CHUNK_VALUES = 2 ** 22;

/**
 * Opens a safetensors file: reads and checks its header (8 bytes length, JSON, data), no tensor yet. The data must be
 * covered exactly: no holes, no overlaps, nothing after the last tensor.
 * @throws UsageError naming the file and the tensor at fault
 */
export function openSafetensors(path: string): TensorSource {
  const { fd, size } = openInput(path);
  try {
    const { tensors, metadata } = readHeader(fd, size, path);
    return new SafetensorsFile(path, fd, tensors, metadata);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/**
 * @param from index of the first of the values in its tensor
 * @throws UsageError naming file and tensor where a value is NaN or infinite
 */
export function checkFinite(values: Float32Array, name: string, path: string, from = 0): void {
  const at = firstNonFinite(values);
  if (at >= 0) throw new UsageError(`${path}: tensor ${show(name)} has the value ${values[at]} at index ${from + at}`);
}

class SafetensorsFile implements TensorSource {
  readonly names: string[];
  private open = true;

  constructor(
    readonly path: string,
    private readonly fd: number,
    readonly tensors: ReadonlyMap<string, StoredTensor>,
    readonly metadata: Readonly<Record<string, string>>,
  ) {
    this.names = [...tensors.keys()];
  }

  fileOf(): string {
    return this.path;
  }

  read(name: string, from = 0, count?: number): Float32Array {
    const { dtype, begin, end } = this.find(name);
    if (!/^(F64|F32|F16|BF16)$/.test(dtype)) {
      throw new UsageError(`${this.path}: tensor ${show(name)} is stored as ${dtype}, which holds no weights`);
    }
    const width = ELEMENT_BYTES[dtype]!;
    const length = (end - begin) / width;
    const wanted = count ?? length - from;
    if (!(from >= 0 && wanted >= 0 && from + wanted <= length)) {
      throw new RangeError(`values ${from} to ${from + wanted} of ${name}, which has ${length}`);
    }
    const values = new Float32Array(wanted);
    const start = begin + from * width;
    if (dtype === 'F32') {
      readExactly(this.fd, new Uint8Array(values.buffer), start, this.path);
      return values;
    }
    const chunk = new ArrayBuffer(Math.min(wanted, CHUNK_VALUES) * width);
    for (let done = 0; done < wanted; done += CHUNK_VALUES) {
      const part = Math.min(CHUNK_VALUES, wanted - done);
      readExactly(this.fd, new Uint8Array(chunk, 0, part * width), start + done * width, this.path);
      widen(chunk, dtype, values.subarray(done, done + part));
    }
    return values;
  }

  readBytes(name: string): Uint8Array {
    const { begin, end } = this.find(name);
    const bytes = new Uint8Array(end - begin);
    readExactly(this.fd, bytes, begin, this.path);
    return bytes;
  }

  close(): void {
    if (this.open) closeSync(this.fd);
    this.open = false;
  }

  private find(name: string): StoredTensor {
    const tensor = this.tensors.get(name);
    if (!tensor) throw new UsageError(`${this.path}: has no tensor ${show(name)}`);
    return tensor;
  }
}

function widen(from: ArrayBuffer, dtype: string, to: Float32Array): void {
  if (dtype === 'F64') {
    to.set(new Float64Array(from, 0, to.length));
  } else if (dtype === 'F16') {
    const half = halfValues();
    const bits = new Uint16Array(from, 0, to.length);
    for (let i = 0; i < bits.length; i++) to[i] = half[bits[i]!]!;
  } else {
    const bits = new Uint16Array(from, 0, to.length);
    const words = new Uint32Array(to.buffer, to.byteOffset, to.length);
    for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16;
  }
}

function readHeader(fd: number, size: number, path: string) {
  refusePointer(fd, size, path);
  if (size < 10) throw new UsageError(`${path}: has ${size} bytes, too few for a safetensors file`);
  const prefix = new Uint8Array(8);
  readExactly(fd, prefix, 0, path);
  const length = Number(new DataView(prefix.buffer).getBigUint64(0, true));
  if (length > MAX_HEADER_BYTES) {
    throw new UsageError(`${path}: header length ${length} is more than ${MAX_HEADER_BYTES}: not a safetensors file?`);
  }
  if (8 + length > size) throw new UsageError(`${path}: header length ${length} goes beyond the file's ${size} bytes`);
  const bytes = new Uint8Array(length);
  readExactly(fd, bytes, 8, path);
  const header = parseJsonObject(bytes, `${path}: header`);
  const twice = duplicateKey(new TextDecoder().decode(bytes), 2);
  if (twice !== undefined) throw new UsageError(`${path}: header has ${show(twice)} twice`);
  const metadata = readMetadata(header['__metadata__'], path);
  const tensors = new Map<string, StoredTensor>();
  for (const [name, entry] of Object.entries(header)) {
    if (name !== '__metadata__') tensors.set(name, readEntry(name, entry, 8 + length, size, path));
  }
  checkCoverage(tensors, 8 + length, size, path);
  return { tensors, metadata };
}

function readMetadata(value: unknown, path: string): Record<string, string> {
  if (value === undefined) return {};
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new UsageError(`${path}: __metadata__ must be an object of strings, but is ${show(value)}`);
  }
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') {
      throw new UsageError(`${path}: __metadata__ ${show(key)} must be a string, but is ${show(text)}`);
    }
  }
  return value as Record<string, string>;
}

function readEntry(name: string, entry: unknown, dataStart: number, size: number, path: string): StoredTensor {
  const fail = (what: string) => new UsageError(`${path}: tensor ${show(name)}: ${what}`);
  if (typeof entry !== 'object' || entry === null) throw fail(`entry must be an object, but is ${show(entry)}`);
  const { dtype, shape, data_offsets: offsets } = entry as Record<string, unknown>;
  if (typeof dtype !== 'string' || !Object.hasOwn(ELEMENT_BYTES, dtype)) throw fail(`unknown dtype ${show(dtype)}`);
  if (!Array.isArray(shape) || shape.length > 16 || !shape.every(isSize)) {
    throw fail(`shape must be a list of sizes, but is ${show(shape)}`);
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize)) {
    throw fail(`data_offsets must be two byte positions, but are ${show(offsets)}`);
  }
  const [begin, end] = [dataStart + offsets[0]!, dataStart + offsets[1]!];
  if (begin > end || end > size)
    throw fail(`data_offsets [${offsets}] lie outside the ${size - dataStart} bytes of data`);
  const bytes = shape.reduce((product: number, n: number) => product * n, ELEMENT_BYTES[dtype]!);
  if (bytes !== end - begin) {
    throw fail(`${dtype} of shape [${shape}] has ${bytes} bytes, but data_offsets [${offsets}] hold ${end - begin}`);
  }
  return { dtype, shape, begin, end };
}

function isSize(n: unknown): n is number {
  return Number.isSafeInteger(n) && (n as number) >= 0;
}

function checkCoverage(tensors: Map<string, StoredTensor>, dataStart: number, size: number, path: string): void {
  const byPlace = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let covered = dataStart;
  for (const [name, { begin, end }] of byPlace) {
    if (begin !== covered) {
      const how = begin < covered ? 'overlaps the tensor before it' : 'leaves a hole before it';
      throw new UsageError(`${path}: tensor ${show(name)}: begins at byte ${begin} and ${how} (expected ${covered})`);
    }
    covered = end;
  }
  if (covered !== size) throw new UsageError(`${path}: has ${size - covered} bytes that belong to no tensor`);
}
