import { open, type FileHandle } from 'node:fs/promises';
import { RunError } from '../errors.ts';
import { floatToBfloat, floatToHalf } from './float_formats.ts';
import { outputError, writeWhole } from './atomic.ts';

const WRITABLE_BYTES = { F64: 8, F32: 4, F16: 2, BF16: 2, I32: 4, U32: 4, U8: 1 } as const;

/** What can be written: F32, F16 and BF16 from a Float32Array, the others from the array type of the same width. */
export type WritableType = keyof typeof WRITABLE_BYTES;

type Values = Float32Array | Float64Array | Int32Array | Uint32Array | Uint8Array;

/**
 * A tensor to write. `data` may be a function, asked only when its turn comes, so that one tensor at a time is in
 * memory.
 */
export interface NewTensor {
  name: string;
  shape: readonly number[];
  dtype?: WritableType;
  data: Values | (() => Values | Promise<Values>);
}

const CHUNK_VALUES = 2 ** 22;

/** Bytes that a tensor takes in the file. */
export function tensorBytes({ shape, dtype = 'F32' }: Pick<NewTensor, 'shape' | 'dtype'>): number {
  return shape.reduce((product, n) => product * n, WRITABLE_BYTES[dtype]);
}

/**
 * Writes a safetensors file, tensor by tensor, and flushes it to the disk. Wide types come first (so that each tensor
 * is aligned), names in order within a type; the same entries give the same bytes. Not atomic: write aside and rename.
 * @throws RunError where the disk is full or not writable, or where a value does not fit the narrower type
 */
export async function writeSafetensors(
  path: string,
  entries: Iterable<NewTensor>,
  metadata: Readonly<Record<string, string>> = { format: 'pt' },
): Promise<void> {
  const sorted = [...entries].sort((a, b) => {
    const width = WRITABLE_BYTES[b.dtype ?? 'F32'] - WRITABLE_BYTES[a.dtype ?? 'F32'];
    return width || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
  });
  let file: FileHandle | undefined;
  try {
    file = await open(path, 'w');
    await writeWhole(file, headerBytes(sorted, metadata));
    for (const entry of sorted) {
      const values = typeof entry.data === 'function' ? await entry.data() : entry.data;
      await writeValues(file, entry, values, path);
    }
    await file.sync();
  } catch (error) {
    throw outputError(error, path);
  } finally {
    await file?.close();
  }
}

function headerBytes(sorted: NewTensor[], metadata: Readonly<Record<string, string>>): Uint8Array {
  const header: Record<string, unknown> = { __metadata__: metadata };
  let offset = 0;
  for (const entry of sorted) {
    if (Object.hasOwn(header, entry.name)) throw new Error(`two tensors are named ${entry.name}`);
    const end = offset + tensorBytes(entry);
    header[entry.name] = { dtype: entry.dtype ?? 'F32', shape: entry.shape, data_offsets: [offset, end] };
    offset = end;
  }
  const json = Buffer.from(JSON.stringify(header), 'utf8');
  const length = Math.ceil(json.length / 8) * 8;
  const bytes = Buffer.alloc(8 + length, 0x20);
  bytes.writeBigUInt64LE(BigInt(length), 0);
  json.copy(bytes, 8);
  return bytes;
}

async function writeValues(file: FileHandle, entry: NewTensor, values: Values, path: string): Promise<void> {
  const { name, shape, dtype = 'F32' } = entry;
  const count = shape.reduce((product, n) => product * n, 1);
  if (values.length !== count) throw new Error(`${name}: ${values.length} values for the shape [${shape}]`);
  for (let done = 0; done < count; done += CHUNK_VALUES) {
    const part = values.subarray(done, done + CHUNK_VALUES);
    const narrow = dtype === 'F16' || dtype === 'BF16' ? narrowed(part, dtype, name, path) : part;
    await writeWhole(file, new Uint8Array(narrow.buffer, narrow.byteOffset, narrow.byteLength));
  }
}

function narrowed(values: Values, dtype: 'F16' | 'BF16', name: string, path: string): Uint16Array {
  const bits = new Uint16Array(values.length);
  const [convert, infinite] = dtype === 'F16' ? [floatToHalf, 0x7c00] : [floatToBfloat, 0x7f80];
  for (let i = 0; i < bits.length; i++) {
    const b = convert(values[i]!);
    if ((b & 0x7fff) === infinite && Number.isFinite(values[i])) {
      throw new RunError(
        `${path}: tensor ${name} has the value ${values[i]}, too large for ${dtype}`,
        'write it as f32',
      );
    }
    bits[i] = b;
  }
  return bits;
}
