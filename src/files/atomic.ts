import { randomBytes } from 'node:crypto';
import { accessSync, constants, existsSync, lstatSync, readlinkSync, realpathSync, renameSync, rmSync, statSync, type Stats } from 'node:fs';
import { mkdir, open, readdir, rename, rm, type FileHandle } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { RunError, UsageError } from '../errors.ts';
import { isAlive } from './process.ts';

/** Turns the system's error about an output file into a RunError that names it; other errors come back as they are. */
export function outputError(error: unknown, path: string): unknown {
  const { code, path: from, dest } = (error ?? {}) as NodeJS.ErrnoException & { dest?: string };
  const at = /^(EISDIR|EEXIST|ENOTDIR|ENOTEMPTY)$/.test(code ?? '') ? dest ?? from : from; // of a file that is moved, what is in its way
  const where = (at ?? path).replace(/\.(tmp|old)-\d+-[0-9a-f]{8}(?=$|[\\/]).*$/s, ''); // of unfinished work, what it is to become
  switch (code) {
    case 'ENOSPC':
    case 'EDQUOT':
      return new RunError(`${where}: the disk is full`, 'free some space, then run again (a training run with --resume)');
    case 'EACCES':
    case 'EPERM':
      return new RunError(`${where}: permission denied, cannot write there`);
    case 'EROFS':
      return new RunError(`${where}: the file system is read-only`);
    case 'ENOENT':
      // Of a folder on a read-only file system mkdir says that it does not exist.
      if (isReadOnly(where)) return new RunError(`${where}: the file system is read-only`);
      return new RunError(`${where}: cannot be written, ${leadsNowhere(where) ? 'it is a link to nothing' : 'its folder does not exist'}`);
    case 'ENOTDIR':
    case 'EEXIST':
      return new RunError(`${where}: cannot be written, a file is in the way`);
    case 'EISDIR':
      return new RunError(`${where}: cannot be written, a folder is in the way`);
    case 'ENOTEMPTY':
      return new RunError(`${where}: cannot be replaced, the folder is not empty`);
    case 'EFBIG':
    case 'EIO':
    case 'EMFILE':
    case 'ENFILE':
    case 'ENAMETOOLONG':
      return new RunError(`${where}: cannot be written (${code})`);
    default:
      return error;
  }
}

/** Writes all of the bytes where a file has come to; the system takes no more than 2 GiB at once. */
export async function writeWhole(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += (await file.write(bytes, at, Math.min(bytes.length - at, 2 ** 30))).bytesWritten;
}

function isLink(path: string): boolean {
  try {
    return lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() ?? false;
  } catch {
    return false; // below a file
  }
}

const leadsNowhere = (path: string): boolean => !existsSync(path) && isLink(path);

function isReadOnly(path: string): boolean {
  let at = resolve(path);
  while (!existsSync(at) && dirname(at) !== at) at = dirname(at);
  try {
    accessSync(at, constants.W_OK);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EROFS';
  }
}

/** Names that this process is working on. A process number alone does not tell: in a container it is often the same. */
const inUse = new Set<string>();

/** A name beside `path` for unfinished work: `NAME.tmp-PID-XXXXXXXX`. */
export function asideName(path: string, kind: 'tmp' | 'old'): string {
  const name = `${path}.${kind}-${process.pid}-${randomBytes(4).toString('hex')}`;
  inUse.add(resolve(name));
  return name;
}

/** Says that the work under a name from `asideName` is over. */
export function releaseAside(name: string): void {
  inUse.delete(resolve(name));
}

/**
 * Looks whether `--out` may name a file to be written, before the work for it is done. Returns the file itself where a link is named.
 * @throws UsageError where something else is there (a folder, a device, a pipe), or no folder to put it in
 */
export function checkOutputFile(path: string): string {
  const found = statOf(path);
  if (found?.isDirectory()) throw new UsageError(`--out: a folder, not a file: ${path}`);
  if (found && !found.isFile()) throw new UsageError(`--out: a device or pipe, not a file: ${path}`);
  const target = found ? realpathSync(path) : leadsTo(path);
  const folder = dirname(resolve(target));
  if (!statOf(folder)?.isDirectory()) throw new UsageError(`--out: no such folder: ${folder}`);
  return target;
}

/** Where a chain of links ends at which nothing is yet. */
function leadsTo(path: string): string {
  let at = path;
  for (let links = 0; links < 40 && isLink(at); links++) at = resolve(dirname(at), readlinkSync(at));
  return at;
}

/**
 * Looks whether `--out` may name a folder to be written, which need not be there.
 * @throws UsageError where a file is in the way
 */
export function checkOutputFolder(path: string): void {
  for (let at = resolve(path); ; at = dirname(at)) {
    const found = statOf(at);
    if (found?.isDirectory()) return;
    const name = at === resolve(path) ? path : at;
    if (found) throw new UsageError(`--out: ${name} is a file, not a folder`);
    if (leadsNowhere(at)) throw new UsageError(`--out: ${name} is a link that leads nowhere`);
    if (at === dirname(at)) return;
  }
}

function statOf(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch {
    return undefined; // below something that is no folder, or not to be looked at
  }
}

/** Flushes a file's or folder's entry to the disk, so that a rename survives a power cut. */
export async function syncPath(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * Writes a file so that a reader, or a crash at any moment, sees either the old content or the new, whole: writes
 * aside, flushes, renames, flushes the folder.
 * @throws RunError where the disk is full or the folder not writable; the old file is still there then
 */
export async function writeFileAtomic(path: string, data: string | Uint8Array): Promise<void> {
  const aside = asideName(path, 'tmp');
  try {
    const handle = await open(aside, 'wx');
    try {
      await handle.writeFile(data);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(aside, path);
    await syncPath(dirname(resolve(path)));
  } catch (error) {
    await rm(aside, { force: true }).catch(() => undefined);
    throw outputError(error, path);
  } finally {
    releaseAside(aside);
  }
}

/**
 * Makes a folder appear whole: `fill` writes its files into a folder aside, all is flushed, then renamed into place. An
 * older folder of that name is moved away before and deleted after; should the machine stop between the two renames,
 * `clearLeftovers` puts the old one back.
 * @throws RunError where it cannot be written; what was there before still is
 */
export async function writeFolderAtomic(path: string, fill: (aside: string) => Promise<void>): Promise<void> {
  const aside = asideName(path, 'tmp');
  const old = asideName(path, 'old');
  try {
    await mkdir(aside, { recursive: true });
    await fill(aside);
    await syncTree(aside);
    if (existsSync(path)) {
      await rename(path, old);
      try {
        await rename(aside, path);
      } catch (error) {
        await rename(old, path);
        throw error;
      }
      await syncPath(dirname(resolve(path)));
      await rm(old, { recursive: true, force: true });
    } else {
      await rename(aside, path);
      await syncPath(dirname(resolve(path)));
    }
  } catch (error) {
    await rm(aside, { recursive: true, force: true }).catch(() => undefined);
    throw outputError(error, path);
  } finally {
    releaseAside(aside);
    releaseAside(old);
  }
}

/** Removes a folder, if it is there, after giving it another name: under its own it is whole or gone at any moment. */
export function removeWhole(path: string): void {
  if (!existsSync(path)) return;
  const aside = asideName(path, 'tmp');
  renameSync(path, aside);
  rmSync(aside, { recursive: true, force: true });
  releaseAside(aside);
}

/** Flushes every file and folder under `path`, and `path` itself. */
export async function syncTree(path: string): Promise<void> {
  for (const entry of await readdir(path, { withFileTypes: true })) {
    if (entry.isDirectory()) await syncTree(join(path, entry.name));
    else if (entry.isFile()) await syncPath(join(path, entry.name));
  }
  await syncPath(path);
}

/**
 * Puts in order what a killed process left beside or in a folder: for each `NAME.old-…` whose NAME is missing, the old
 * content comes back; every other `NAME.tmp-…` and `NAME.old-…` is deleted. What a living process works on stays.
 * @param folder whose direct entries are looked at
 */
export async function clearLeftovers(folder: string): Promise<void> {
  let entries: string[];
  try {
    entries = await readdir(folder);
  } catch {
    return;
  }
  try {
    for (const entry of entries) {
      const [, name, kind, pid] = /^(.+)\.(tmp|old)-(\d+)-[0-9a-f]{8}$/.exec(entry) ?? [];
      if (!name || inUse.has(resolve(folder, entry)) || worksElsewhere(Number(pid))) continue;
      if (kind === 'old' && !existsSync(join(folder, name))) await rename(join(folder, entry), join(folder, name));
      else await rm(join(folder, entry), { recursive: true, force: true });
    }
  } catch (error) {
    throw outputError(error, folder);
  }
}

const worksElsewhere = (pid: number): boolean => pid !== process.pid && isAlive(pid);
