import { closeSync } from 'node:fs';
import { UsageError } from '../errors.ts';
import { GGUF_TYPES, READABLE_TYPES, type GgufType } from './gguf_types.ts';
import { openInput, readExactly, refusePointer, show } from './json.ts';

/** A metadata value. 64-bit integers are rounded to the nearest number. */
export type GgufValue = number | boolean | string | number[] | boolean[] | string[];

/** A tensor's place in the file; `shape` is rows first (GGUF itself stores the fastest dimension first). */
export interface GgufTensor {
  type: GgufType;
  shape: number[];
  begin: number;
  end: number;
}

export interface GgufFile {
  readonly path: string;
  readonly version: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly names: string[];
  readonly tensors: ReadonlyMap<string, GgufTensor>;
  /**
   * A tensor's values, dequantised to float32.
   * @throws UsageError where the name is unknown or its type not supported (the message names it)
   */
  read(name: string): Float32Array;
  close(): void;
}

const MAX_HEADER_BYTES = 256 * 2 ** 20;
const MAX_STRING_BYTES = 16 * 2 ** 20;
/** Items of all lists of a file together; the largest vocabularies have 250,000 tokens, types, scores and merges. */
const MAX_ITEMS = 2 ** 22;
const MAX_TENSORS = 2 ** 16;
const DECODE_BYTES = 2 ** 22;

/**
 * Opens a GGUF file of version 2 or 3 (little endian): reads and checks metadata and tensor directory, no tensor yet.
 * @throws UsageError naming the file and the key or tensor at fault
 */
export function openGguf(path: string): GgufFile {
  const { fd, size } = openInput(path);
  try {
    refusePointer(fd, size, path);
    const { version, metadata, tensors } = readHeader(new Reader(fd, size, path));
    return {
      path,
      version,
      metadata,
      names: [...tensors.keys()],
      tensors,
      read(name) {
        const tensor = tensors.get(name);
        if (!tensor) throw new UsageError(`${path}: has no tensor ${show(name)}`);
        return decode(fd, tensor, name, path);
      },
      close: () => closeSync(fd),
    };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function decode(fd: number, { type, shape, begin, end }: GgufTensor, name: string, path: string): Float32Array {
  if (!type.decode) {
    throw new UsageError(
      `${path}: tensor ${show(name)} has the type ${type.name}, which is not supported ` +
        `(supported: ${READABLE_TYPES.join(', ')})`,
    );
  }
  const values = new Float32Array(shape.reduce((product, n) => product * n, 1));
  const step = Math.floor(DECODE_BYTES / type.bytes) * type.bytes;
  const chunk = new Uint8Array(Math.min(step, end - begin));
  for (let at = begin, out = 0; at < end; at += step) {
    const bytes = chunk.subarray(0, Math.min(step, end - at));
    readExactly(fd, bytes, at, path);
    const count = (bytes.length / type.bytes) * type.values;
    type.decode(new DataView(bytes.buffer, 0, bytes.length), values.subarray(out, out + count));
    out += count;
  }
  return values;
}

function readHeader(reader: Reader) {
  const { path } = reader;
  if (reader.size < 24 || reader.u32() !== 0x46554747) throw new UsageError(`${path}: is not a GGUF file`);
  const version = reader.u32();
  if (version === 0x02000000 || version === 0x03000000)
    throw new UsageError(`${path}: big-endian GGUF is not supported`);
  if (version !== 2 && version !== 3)
    throw new UsageError(`${path}: GGUF version ${version} is not supported (supported: 2, 3)`);
  const tensorCount = reader.count(MAX_TENSORS, 24, 'tensors');
  const keyCount = reader.count(MAX_TENSORS, 13, 'metadata keys');
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < keyCount; i++) {
    const key = reader.string('a metadata key');
    if (metadata.has(key)) throw new UsageError(`${path}: metadata key ${show(key)} is there twice`);
    metadata.set(key, reader.value(reader.u32(), key));
  }
  const alignment = metadata.get('general.alignment') ?? 32;
  if (typeof alignment !== 'number' || alignment < 8 || alignment > 65536 || alignment % 8 !== 0) {
    throw new UsageError(`${path}: general.alignment ${show(alignment)} is not a multiple of 8 up to 65536`);
  }
  const tensors = new Map<string, GgufTensor>();
  for (let i = 0; i < tensorCount; i++) {
    const name = reader.string('a tensor name');
    if (tensors.has(name)) throw new UsageError(`${path}: tensor ${show(name)} is there twice`);
    tensors.set(name, readTensor(reader, name, alignment));
  }
  place(tensors, Math.ceil(reader.position / alignment) * alignment, reader);
  return { version, metadata, tensors };
}

/** The directory entry of a tensor; `begin` and `end` still count from the start of the data. */
function readTensor(reader: Reader, name: string, alignment: number): GgufTensor {
  const fail = (what: string) => new UsageError(`${reader.path}: tensor ${show(name)}: ${what}`);
  const dimensions = reader.u32();
  if (dimensions < 1 || dimensions > 4) throw fail(`has ${dimensions} dimensions (1 to 4 expected)`);
  const shape: number[] = [];
  for (let d = 0; d < dimensions; d++) shape.unshift(reader.u64());
  const number = reader.u32();
  const type = GGUF_TYPES.get(number);
  if (!type) throw fail(`unknown type ${number}`);
  const begin = reader.u64();
  const count = shape.reduce((product, n) => product * n, 1);
  if (!shape.every((n) => Number.isSafeInteger(n) && n > 0) || !Number.isSafeInteger(count))
    throw fail(`shape [${shape}]`);
  const row = shape.at(-1)!;
  if (row % type.values !== 0)
    throw fail(`rows of ${row} values are no multiple of the ${type.values} in a ${type.name} block`);
  if (!Number.isSafeInteger(begin) || begin % alignment !== 0)
    throw fail(`offset ${begin} is not aligned to ${alignment} bytes`);
  return { type, shape, begin, end: begin + (count / type.values) * type.bytes };
}

function place(tensors: Map<string, GgufTensor>, dataStart: number, { path, size }: Reader): void {
  let last = dataStart;
  for (const [name, tensor] of [...tensors].sort(([, a], [, b]) => a.begin - b.begin)) {
    tensor.begin += dataStart;
    tensor.end += dataStart;
    if (tensor.begin < last) throw new UsageError(`${path}: tensor ${show(name)}: overlaps the tensor before it`);
    if (tensor.end > size) {
      throw new UsageError(`${path}: tensor ${show(name)}: ends at byte ${tensor.end}, beyond the file's ${size}`);
    }
    last = tensor.end;
  }
}

/** Reads the header front to back through a window, never past the file or the largest header allowed. */
class Reader {
  position = 0;
  private window = Buffer.alloc(0);
  private start = 0;
  private itemsLeft = MAX_ITEMS;

  constructor(
    private readonly fd: number,
    readonly size: number,
    readonly path: string,
  ) {}

  u32(): number {
    return this.take(4).readUInt32LE();
  }

  u64(): number {
    return Number(this.take(8).readBigUInt64LE());
  }

  /** A count that the rest of the file has room for, each item taking at least `itemBytes`. */
  count(most: number, itemBytes: number, what: string): number {
    const count = this.u64();
    if (count > most || count * itemBytes > this.size - this.position) {
      throw new UsageError(
        `${this.path}: ${what}: a count of ${count} is more than ${most} or than the file has room for`,
      );
    }
    return count;
  }

  string(what: string): string {
    const bytes = this.take(this.count(MAX_STRING_BYTES, 1, what));
    return bytes.toString('utf8');
  }

  value(type: number, key: string): GgufValue {
    if (type !== 9) return this.scalar(type, key);
    const itemType = this.u32();
    if (itemType === 9) throw new UsageError(`${this.path}: metadata key ${show(key)}: nested lists are not supported`);
    const itemBytes = itemType === 8 ? 8 : 1;
    const count = this.count(this.itemsLeft, itemBytes, `metadata key ${show(key)}`);
    this.itemsLeft -= count;
    const items: Array<number | boolean | string> = [];
    for (let i = 0; i < count; i++) items.push(this.scalar(itemType, key));
    return items as GgufValue;
  }

  private scalar(type: number, key: string): number | boolean | string {
    switch (type) {
      case 0:
        return this.take(1).readUInt8();
      case 1:
        return this.take(1).readInt8();
      case 2:
        return this.take(2).readUInt16LE();
      case 3:
        return this.take(2).readInt16LE();
      case 4:
        return this.u32();
      case 5:
        return this.take(4).readInt32LE();
      case 6:
        return this.take(4).readFloatLE();
      case 7:
        return this.take(1).readUInt8() !== 0;
      case 8:
        return this.string(`metadata key ${show(key)}`);
      case 10:
        return this.u64();
      case 11:
        return Number(this.take(8).readBigInt64LE());
      case 12:
        return this.take(8).readDoubleLE();
      default:
        throw new UsageError(`${this.path}: metadata key ${show(key)}: unknown value type ${type}`);
    }
  }

  /** The next bytes, valid until the next call. */
  private take(count: number): Buffer {
    const end = this.position + count;
    if (end > Math.min(this.size, MAX_HEADER_BYTES)) {
      throw new UsageError(
        `${this.path}: the header goes beyond ${end > this.size ? `the file's ${this.size}` : MAX_HEADER_BYTES} bytes`,
      );
    }
    if (end > this.start + this.window.length) {
      this.window = Buffer.alloc(Math.min(Math.max(count, 2 ** 18), this.size - this.position));
      this.start = this.position;
      readExactly(this.fd, this.window, this.start, this.path);
    }
    const bytes = this.window.subarray(this.position - this.start, end - this.start);
    this.position = end;
    return bytes;
  }
}
