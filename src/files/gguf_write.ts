import { open, type FileHandle } from 'node:fs/promises';
import { RunError } from '../errors.ts';
import { outputError, writeWhole } from './atomic.ts';
import { floatToHalf, halfValues } from './float_formats.ts';

/** A metadata entry to write, with the type it has in the file. */
export type GgufEntry =
  | { key: string; type: 'u32' | 'i32' | 'f32' | 'u64'; value: number }
  | { key: string; type: 'bool'; value: boolean }
  | { key: string; type: 'string'; value: string }
  | { key: string; type: 'string[]'; value: readonly string[] }
  | { key: string; type: 'i32[]' | 'f32[]'; value: readonly number[] };

/** A tensor to write; `data` may be a function, asked when its turn comes. */
export interface NewGgufTensor {
  name: string;
  /** Rows first. */
  shape: readonly number[];
  type: 'F32' | 'F16' | 'Q8_0';
  data: Float32Array | (() => Float32Array | Promise<Float32Array>);
}

const ALIGNMENT = 32;
const TYPES = {
  F32: { number: 0, values: 1, bytes: 4 },
  F16: { number: 1, values: 1, bytes: 2 },
  Q8_0: { number: 8, values: 32, bytes: 34 },
} as const;
const SCALARS = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, u64: 10 } as const;

/**
 * Writes a GGUF file of version 3, tensor by tensor, and flushes it. Not atomic: write aside and rename.
 * @throws RunError where the disk is full or not writable, or where a value does not fit F16 or is not finite
 */
export async function writeGguf(
  path: string,
  metadata: readonly GgufEntry[],
  tensors: readonly NewGgufTensor[],
): Promise<void> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, 'w');
    let position = await append(file, pad(headerBytes(metadata, tensors)));
    for (const tensor of tensors) {
      const values = typeof tensor.data === 'function' ? await tensor.data() : tensor.data;
      position += await append(file, pad(encode(tensor, values, path)));
    }
    await file.sync();
  } catch (error) {
    throw outputError(error, path);
  } finally {
    await file?.close();
  }
}

function headerBytes(metadata: readonly GgufEntry[], tensors: readonly NewGgufTensor[]): Buffer {
  const parts = [Buffer.from('GGUF'), u32(3), u64(tensors.length), u64(metadata.length)];
  for (const entry of metadata) parts.push(string(entry.key), ...valueBytes(entry));
  let offset = 0;
  for (const { name, shape, type } of tensors) {
    const { number, values } = TYPES[type];
    if (shape.at(-1)! % values !== 0) throw new Error(`${name}: rows of ${shape.at(-1)} values cannot be ${type}`);
    parts.push(string(name), u32(shape.length), ...[...shape].reverse().map(u64), u32(number), u64(offset));
    offset += Math.ceil(byteLength(shape, type) / ALIGNMENT) * ALIGNMENT;
  }
  return Buffer.concat(parts);
}

function valueBytes(entry: GgufEntry): Buffer[] {
  switch (entry.type) {
    case 'string':
      return [u32(SCALARS.string), string(entry.value)];
    case 'bool':
      return [u32(SCALARS.bool), Buffer.from([entry.value ? 1 : 0])];
    case 'string[]':
      return [u32(9), u32(SCALARS.string), u64(entry.value.length), ...entry.value.map(string)];
    case 'i32[]':
      return [u32(9), u32(SCALARS.i32), u64(entry.value.length), Buffer.from(Int32Array.from(entry.value).buffer)];
    case 'f32[]':
      return [u32(9), u32(SCALARS.f32), u64(entry.value.length), Buffer.from(Float32Array.from(entry.value).buffer)];
    default:
      return [u32(SCALARS[entry.type]), number(entry.type, entry.value)];
  }
}

function number(type: 'u32' | 'i32' | 'f32' | 'u64', value: number): Buffer {
  if (type === 'u64') return u64(value);
  const bytes = Buffer.alloc(4);
  if (type === 'u32') bytes.writeUInt32LE(value);
  else if (type === 'i32') bytes.writeInt32LE(value);
  else bytes.writeFloatLE(value);
  return bytes;
}

function u32(value: number): Buffer {
  return number('u32', value);
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function string(text: string): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  return Buffer.concat([u64(bytes.length), bytes]);
}

function byteLength(shape: readonly number[], type: NewGgufTensor['type']): number {
  const { values, bytes } = TYPES[type];
  return (shape.reduce((product, n) => product * n, 1) / values) * bytes;
}

function encode({ name, shape, type }: NewGgufTensor, values: Float32Array, path: string): Uint8Array {
  const bytes = Buffer.alloc(byteLength(shape, type));
  const count = shape.reduce((product, n) => product * n, 1);
  if (values.length !== count) throw new Error(`${name}: ${values.length} values for the shape [${shape}]`);
  if (type === 'Q8_0') quantiseQ8(values, bytes);
  else if (type === 'F16') values.forEach((v, i) => bytes.writeUInt16LE(floatToHalf(v), 2 * i));
  else bytes.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  if (type !== 'F32') {
    const [step, half] = [TYPES[type].bytes, halfValues()];
    for (let at = 0; at < bytes.length; at += step) {
      if (!Number.isFinite(half[bytes.readUInt16LE(at)])) {
        throw new RunError(`${path}: tensor ${name} has a value that is not finite or too large for ${type}`);
      }
    }
  }
  return bytes;
}

/**
 * Blocks of 32: d = max |x| / 127 as a half, then round(x / d), halves away from zero, all in float32 as llama.cpp
 * does.
 */
function quantiseQ8(values: Float32Array, bytes: Buffer): void {
  for (let block = 0, at = 0; block < values.length; block += 32, at += 34) {
    let largest = 0;
    for (let i = 0; i < 32; i++) {
      const size = Math.abs(values[block + i]!);
      if (!(size <= largest)) largest = size; // keeps a NaN, which is found afterwards
    }
    const d = Math.fround(largest / 127);
    const inverse = d ? Math.fround(1 / d) : 0;
    bytes.writeUInt16LE(floatToHalf(d), at);
    for (let i = 0; i < 32; i++) {
      const scaled = Math.fround(values[block + i]! * inverse);
      const rounded = Math.sign(scaled) * Math.floor(Math.abs(scaled) + 0.5);
      bytes.writeInt8(Number.isFinite(rounded) ? rounded : 0, at + 2 + i);
    }
  }
}

/** Zeros up to the next multiple of the alignment. */
function pad(bytes: Uint8Array): Uint8Array {
  const missing = (ALIGNMENT - (bytes.length % ALIGNMENT)) % ALIGNMENT;
  return missing ? Buffer.concat([bytes, Buffer.alloc(missing)]) : bytes;
}

async function append(file: FileHandle, bytes: Uint8Array): Promise<number> {
  await writeWhole(file, bytes);
  return bytes.length;
}
