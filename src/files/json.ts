import { closeSync, fstatSync, openSync, readSync, statSync } from 'node:fs';
import { UsageError } from '../errors.ts';

/** The largest JSON file read whole; a tokenizer.json of 250,000 entries has about 30 MB. */
export const MAX_JSON_BYTES = 128 * 2 ** 20;

/** A value in an error message: on one line, control characters escaped, never longer than about 80 characters. */
export function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 80 ? `${value.slice(0, 77)}…` : value);
  if (Array.isArray(value)) {
    const flat = value.length <= 8 && value.every((v) => typeof v === 'number' || typeof v === 'boolean' || v === null);
    return flat ? `[${value.join(', ')}]` : `a list of ${value.length}`;
  }
  if (value === undefined) return 'nothing';
  return typeof value === 'object' && value !== null ? 'an object' : String(value);
}

/** Turns the system's error about an input file into one that names the file; other errors come back as they are. */
export function inputError(error: unknown, path: string): unknown {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  switch (code) {
    case 'ENOENT':
      return new UsageError(`${path}: no such file or folder`);
    case 'ENOTDIR':
      return new UsageError(`${path}: a part of this path is not a folder`);
    case 'EISDIR':
      return new UsageError(`${path}: is a folder, not a file`);
    case 'EACCES':
    case 'EPERM':
      return new UsageError(`${path}: permission denied`);
    case 'ENAMETOOLONG':
    case 'ELOOP':
    case 'EIO':
      return new UsageError(`${path}: cannot be read (${code})`);
    default:
      return error;
  }
}

/**
 * Opens a regular file for reading.
 * @throws UsageError naming the file where it does not exist, may not be read or is a folder, pipe or device.
 */
export function openInput(path: string): { fd: number; size: number } {
  let fd: number | undefined;
  try {
    if (!statSync(path).isFile()) throw new UsageError(`${path}: is not a regular file`);
    fd = openSync(path, 'r');
    return { fd, size: fstatSync(fd).size };
  } catch (error) {
    if (fd !== undefined) closeSync(fd);
    throw inputError(error, path);
  }
}

/**
 * Reads `into.length` bytes from `position` on.
 * @throws UsageError where the file ends earlier (it was cut while we had it open) or cannot be read.
 */
export function readExactly(fd: number, into: Uint8Array, position: number, path: string): void {
  let done = 0;
  while (done < into.length) {
    let count: number;
    try {
      // One read of more than 2 GiB is refused by the system.
      count = readSync(fd, into, done, Math.min(into.length - done, 2 ** 30), position + done);
    } catch (error) {
      throw inputError(error, path);
    }
    if (count === 0)
      throw new UsageError(`${path}: ends at byte ${position + done}, ${into.length - done} bytes too early`);
    done += count;
  }
}

const POINTER = 'version https://git-lfs';

/**
 * Makes sure that a file of weights is not Git LFS's note about it, which is what a clone without LFS leaves.
 * @throws UsageError where it is
 */
export function refusePointer(fd: number, size: number, path: string): void {
  if (size < POINTER.length || size > 1024) return;
  const start = new Uint8Array(POINTER.length);
  readExactly(fd, start, 0, path);
  if (new TextDecoder().decode(start) !== POINTER) return;
  throw new UsageError(`${path}: is a Git LFS pointer, not the weights themselves`, 'git lfs pull fetches them');
}

/**
 * Parses UTF-8 JSON whose top level is an object. A byte order mark is accepted.
 * @param where what the message names first (a path)
 * @throws UsageError where it is not UTF-8, not JSON or not an object
 */
export function parseJsonObject(bytes: Uint8Array, where: string): Record<string, unknown> {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new UsageError(`${where}: is not valid UTF-8`);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const reason = error instanceof Error ? error.message.replace(/\s+/g, ' ').slice(0, 120) : 'unknown reason';
    throw new UsageError(`${where}: is not valid JSON (${reason})`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new UsageError(`${where}: must be a JSON object, but is ${show(value)}`);
  }
  return value as Record<string, unknown>;
}

/**
 * Reads a JSON file whose top level is an object.
 * @throws UsageError naming the file: missing, unreadable, larger than `maxBytes`, not UTF-8, not JSON, not an object
 */
export function readJsonObject(path: string, maxBytes = MAX_JSON_BYTES): Record<string, unknown> {
  const { fd, size } = openInput(path);
  try {
    if (size > maxBytes) throw new UsageError(`${path}: has ${size} bytes, more than the ${maxBytes} expected at most`);
    const bytes = new Uint8Array(size);
    readExactly(fd, bytes, 0, path);
    return parseJsonObject(bytes, path);
  } finally {
    closeSync(fd);
  }
}

/**
 * The first key that an object of the top `levels` levels has twice (JSON.parse keeps the last one silently), or
 * undefined.
 * @param text valid JSON
 */
export function duplicateKey(text: string, levels: number): string | undefined {
  const keys: Array<Set<string> | undefined> = [];
  let expectKey = false;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 0x22) {
      const start = i++;
      while (text.charCodeAt(i) !== 0x22) i += text.charCodeAt(i) === 0x5c ? 2 : 1;
      const seen = keys[keys.length - 1];
      if (!expectKey || !seen) continue;
      expectKey = false;
      if (keys.length > levels) continue;
      const key = JSON.parse(text.slice(start, i + 1)) as string;
      if (seen.has(key)) return key;
      seen.add(key);
    } else if (c === 0x7b) {
      keys.push(new Set());
      expectKey = true;
    } else if (c === 0x5b) {
      keys.push(undefined);
      expectKey = false;
    } else if (c === 0x7d || c === 0x5d) {
      keys.pop();
      expectKey = false;
    } else if (c === 0x2c) {
      expectKey = keys[keys.length - 1] !== undefined;
    }
  }
  return undefined;
}
