import { isUtf8 } from 'node:buffer';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { pipeline, Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { UsageError } from '../errors.ts';

export type JsonObject = Record<string, unknown>;

/** A JSON object of a data set and where it stands; `text` is its line, as written. */
export interface Row {
  source: string;
  /** From 1; a plain text file is one row, at line 1. */
  line: number;
  text: string;
  value: JsonObject;
}

/** A line that is no row, and why. */
export interface BadRow {
  source: string;
  line: number;
  error: string;
}

/** What was read of one source: `sha256` and `bytes` are of the bytes as they stand in the file, compressed or not. */
export interface SourceDigest {
  source: string;
  sha256: string;
  bytes: number;
  rows: number;
}

export interface ReadOptions {
  /** Accept `.txt` files, one document each, as `{"text"}` rows. */
  plainText?: boolean;
  /** What `-` stands for (process.stdin). */
  stdin?: Readable;
  /** Called when a source has been read to its end. */
  onSource?: (digest: SourceDigest) => void;
}

const MAX_LINE_BYTES = 64 * 2 ** 20;
const MAX_DOCUMENT_BYTES = 256 * 2 ** 20;
/** Text compresses 3- to 20-fold, hardly ever 200-fold; a gzip bomb 1,000-fold. */
const MAX_EXPANSION = 200;
const EXPANSION_GRACE_BYTES = 256 * 2 ** 20;

/**
 * The rows of several data sources in turn: JSONL files, gzipped or not (told by their first bytes), `-` for standard
 * input, and where `plainText` allows it `.txt` files. Memory stays at one line. A byte order mark, CRLF, blank lines
 * and a missing last newline are fine; a line that is not one JSON object comes as a BadRow. A source that cannot be
 * read, holds no rows or has a line (or a gap of blank ones) of more than 64 MiB is a UsageError that names it.
 */
export async function* readRows(sources: readonly string[], options: ReadOptions = {}): AsyncGenerator<Row | BadRow> {
  await checkSources(sources, options);
  for (const source of sources) {
    const hash = createHash('sha256');
    const counted = { bytes: 0 };
    let rows = 0;
    const chunks = expand(source, hashed(openSource(source, options), hash, counted), counted);
    for await (const row of isPlainText(source) ? readDocument(source, chunks) : readLines(source, chunks)) {
      rows++;
      yield row;
    }
    if (rows === 0) throw new UsageError(`${source}: no rows${source === '-' ? ' on standard input' : ''}`);
    options.onSource?.({ source, sha256: hash.digest('hex'), bytes: counted.bytes, rows });
  }
}

async function checkSources(sources: readonly string[], options: ReadOptions): Promise<void> {
  if (sources.length === 0) throw new UsageError('no data given');
  if (sources.filter((source) => source === '-').length > 1) throw new UsageError('standard input (-) is named twice');
  for (const source of sources) {
    if (source === '-') continue;
    let isFolder: boolean;
    try {
      isFolder = (await stat(source)).isDirectory();
    } catch (error) {
      throw unreadable(source, error);
    }
    if (isFolder) throw new UsageError(`${source}: is a folder, not a file`);
    if (isPlainText(source) && !options.plainText) {
      throw new UsageError(`${source}: plain text is for pretraining; expected JSONL, one JSON object a line`);
    }
  }
}

function unreadable(source: string, error: unknown): UsageError {
  const code = (error as NodeJS.ErrnoException).code;
  const reasons: Record<string, string> = { ENOENT: 'no such file', EACCES: 'permission denied' };
  return new UsageError(`${source}: ${reasons[code ?? ''] ?? `cannot be read (${code ?? (error as Error).message})`}`);
}

function isPlainText(source: string): boolean {
  return /\.txt(\.gz)?$/i.test(source);
}

async function* openSource(source: string, options: ReadOptions): AsyncGenerator<Buffer> {
  const stream = source === '-' ? (options.stdin ?? process.stdin) : createReadStream(source);
  try {
    for await (const chunk of stream) yield typeof chunk === 'string' ? Buffer.from(chunk) : (chunk as Buffer);
  } catch (error) {
    throw unreadable(source, error);
  }
}

async function* hashed(
  chunks: AsyncIterable<Buffer>,
  hash: { update(data: Buffer): unknown },
  counted: { bytes: number },
): AsyncGenerator<Buffer> {
  for await (const chunk of chunks) {
    hash.update(chunk);
    counted.bytes += chunk.length;
    yield chunk;
  }
}

/** Uncompresses what begins with gzip's magic bytes. */
async function* expand(
  source: string,
  chunks: AsyncGenerator<Buffer>,
  counted: { bytes: number },
): AsyncGenerator<Buffer> {
  let head: Buffer = Buffer.alloc(0);
  while (head.length < 2) {
    const { value, done } = await chunks.next();
    if (done) break;
    head = Buffer.concat([head, value]);
  }
  const all = (async function* () {
    if (head.length > 0) yield head;
    yield* chunks;
  })();
  if (head[0] !== 0x1f || head[1] !== 0x8b) {
    yield* all;
    return;
  }
  let expanded = 0;
  const gunzip = pipeline(Readable.from(all), createGunzip(), () => {});
  try {
    for await (const chunk of gunzip as AsyncIterable<Buffer>) {
      expanded += chunk.length;
      if (expanded > EXPANSION_GRACE_BYTES && expanded > MAX_EXPANSION * counted.bytes) {
        throw new UsageError(`${source}: expands more than ${MAX_EXPANSION}-fold, which no data set does`);
      }
      yield chunk;
    }
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(`${source}: broken gzip data (${(error as Error).message})`);
  }
}

async function* readLines(source: string, chunks: AsyncIterable<Buffer>): AsyncGenerator<Row | BadRow> {
  let pending: Buffer[] = [];
  let pendingBytes = 0;
  let line = 0;
  /** Bytes since the last line that was not blank. */
  let idleBytes = 0;
  const finish = (tail: Buffer): Row | BadRow | undefined => {
    const bytes = pending.length === 0 ? tail : Buffer.concat([...pending, tail]);
    pending = [];
    pendingBytes = 0;
    line++;
    const row = readLine(source, line, bytes);
    if (row) idleBytes = 0;
    return row;
  };
  for await (const chunk of chunks) {
    let begin = 0;
    idleBytes += chunk.length;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, begin)) {
      const row = finish(chunk.subarray(begin, end));
      begin = end + 1;
      if (row) yield row;
      for (; chunk[begin] === 10; begin++) line++;
    }
    if (begin < chunk.length) {
      pending.push(chunk.subarray(begin));
      pendingBytes += chunk.length - begin;
    }
    if (idleBytes > MAX_LINE_BYTES) {
      const what = pendingBytes > MAX_LINE_BYTES / 2 ? 'a line of more than' : 'nothing but blank lines for';
      throw new UsageError(`${source}:${line + 1}: ${what} ${MAX_LINE_BYTES / 2 ** 20} MiB`);
    }
  }
  const row = pendingBytes > 0 ? finish(Buffer.alloc(0)) : undefined;
  if (row) yield row;
}

function readLine(source: string, line: number, bytes: Buffer): Row | BadRow | undefined {
  const text = decodeText(line === 1 ? withoutMark(bytes) : bytes);
  if (typeof text !== 'string') return { source, line, error: text.error };
  if (text.trim() === '') return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const reason = (error as Error).message.replace(/\s+/g, ' ').slice(0, 120);
    return { source, line, error: `not a JSON object (${reason})` };
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return { source, line, error: `not a JSON object but ${nameOf(value)}` };
  }
  return { source, line, text: text.trim(), value: value as JsonObject };
}

/** What kind of JSON value this is, for messages: "a list", "a text", … */
export function nameOf(value: unknown): string {
  if (value === undefined) return 'missing';
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'a list';
  const names: Record<string, string> = { string: 'a text', number: 'a number', boolean: 'a boolean' };
  return names[typeof value] ?? 'an object';
}

function withoutMark(bytes: Buffer): Buffer {
  return bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? bytes.subarray(3) : bytes;
}

function decodeText(bytes: Buffer): string | { error: string } {
  if (bytes.includes(0)) return { error: 'a NUL byte' };
  if (!isUtf8(bytes)) return { error: 'invalid UTF-8' };
  return bytes.toString('utf8');
}

async function* readDocument(source: string, chunks: AsyncIterable<Buffer>): AsyncGenerator<Row | BadRow> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const chunk of chunks) {
    parts.push(chunk);
    size += chunk.length;
    if (size > MAX_DOCUMENT_BYTES) {
      throw new UsageError(
        `${source}: more than ${MAX_DOCUMENT_BYTES / 2 ** 20} MiB of plain text in one document`,
        'split it into {"text"} rows of a .jsonl file',
      );
    }
  }
  const bytes = withoutMark(Buffer.concat(parts));
  if (bytes.length === 0) return;
  const text = decodeText(bytes);
  if (typeof text === 'string') {
    if (text.trim() !== '') yield { source, line: 1, text: JSON.stringify({ text }), value: { text } };
    return;
  }
  // Name the line where it goes wrong.
  let line = 1;
  for (let begin = 0; begin < bytes.length; line++) {
    const found = bytes.indexOf(10, begin);
    const end = found < 0 ? bytes.length : found;
    const problem = decodeText(bytes.subarray(begin, end));
    if (typeof problem !== 'string') {
      yield { source, line, error: problem.error };
      return;
    }
    begin = end + 1;
  }
}
