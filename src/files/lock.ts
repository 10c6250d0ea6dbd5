import { linkSync, readFileSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { hostname, uptime } from 'node:os';
import { join } from 'node:path';
import { UsageError } from '../errors.ts';
import { asideName, outputError, releaseAside } from './atomic.ts';
import { isAlive, processSpace, startOf } from './process.ts';

/** The file in a folder that says which process works in it. */
const LOCK_FILE = 'rlhf.lock';

/** How often a holder touches its lock, and for how long one that cannot be looked up may leave its lock untouched. */
const TOUCH_MS = 2000;
const PATIENCE_MS = 10_000;

/** `space`: within which process numbers mean something. */
interface Holder { pid: number; host: string; space: string; started: string }

/** Keeps other runs out of a folder, from `take` to `release`. What a killed process held is free. */
export class FolderLock {
  readonly #path: string;
  readonly #touching: NodeJS.Timeout;
  #held = true;

  private constructor(path: string) {
    this.#path = path;
    this.#touching = setInterval(() => touch(path), TOUCH_MS);
    this.#touching.unref();
  }

  /** @throws UsageError where a living process holds it; RunError where the folder cannot be written */
  static async take(folder: string): Promise<FolderLock> {
    const path = join(folder, LOCK_FILE);
    const own = JSON.stringify({ pid: process.pid, host: hostname(), space: processSpace(), started: startOf(process.pid) } satisfies Holder);
    for (let tries = 1; ; tries++) {
      const left = await checkUnlocked(folder);
      try {
        if (left !== undefined) removeLeft(path, left);
        writeNew(path, own);
        return new FolderLock(path);
      } catch (error) {
        // Another process was faster, to put its own there or to take away what was left; it says so itself the next time.
        const { code } = error as NodeJS.ErrnoException;
        if (code !== 'EEXIST' && !(code === 'ENOENT' && left !== undefined) || tries === 9) throw outputError(error, path);
      }
    }
  }

  get held(): boolean {
    return this.#held;
  }

  release(): void {
    clearInterval(this.#touching);
    if (this.#held) rmSync(this.#path, { force: true });
    this.#held = false;
  }
}

/**
 * Looks for the lock of another run, without writing; returns the text of one that nobody holds any more.
 * @throws UsageError where a living process works in the folder; of one on another machine or in another container is known what it
 *   does to its lock: that is watched for some seconds
 */
export async function checkUnlocked(folder: string): Promise<string | undefined> {
  const path = join(folder, LOCK_FILE);
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    return undefined; // there is none, or the folder cannot be read: told when it is used
  }
  const holder = parsed(text);
  if (holder?.host === hostname() && holder.space === processSpace()) {
    const { pid, started } = holder;
    // Where the system does not say when a process started, one from before its own start has ended.
    const ended = !isAlive(pid) || started !== startOf(pid) || started === '' && writtenAt(path) < Date.now() - 1000 * uptime();
    if (ended) return text;
    throw inUse(folder, `process ${pid}`);
  }
  const touched = writtenAt(path);
  while (Math.abs(Date.now() - touched) < PATIENCE_MS) {
    await new Promise((resolve) => setTimeout(resolve, TOUCH_MS / 4));
    const now = writtenAt(path);
    if (now === 0) return undefined; // its holder has ended
    if (now !== touched) throw inUse(folder, holder ? `process ${holder.pid} of ${holder.host}` : 'another run');
  }
  return text;
}

function touch(path: string): void {
  try {
    utimesSync(path, new Date(), new Date());
  } catch {
    // The folder has gone: the run finds out by itself.
  }
}

const writtenAt = (path: string): number => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;

/** Makes a file that appears with its content, or at least not over another one; throws EEXIST where there is one. */
function writeNew(path: string, text: string): void {
  const aside = asideName(path, 'tmp');
  try {
    writeFileSync(aside, text, { flag: 'wx' });
    try {
      linkSync(aside, path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EEXIST') throw error;
      writeFileSync(path, text, { flag: 'wx' }); // a file system without links
    }
  } finally {
    rmSync(aside, { force: true });
    releaseAside(aside);
  }
}

function parsed(text: string): Holder | undefined {
  try {
    const holder = JSON.parse(text) as Holder | null;
    return typeof holder?.pid === 'number' ? holder : undefined;
  } catch {
    return undefined;
  }
}

/** Removes a lock that nobody holds, unless another process has put its own there since. */
function removeLeft(path: string, left: string): void {
  const aside = asideName(path, 'tmp');
  try {
    renameSync(path, aside);
    if (readFileSync(aside, 'utf8') === left) rmSync(aside);
    else renameSync(aside, path);
  } finally {
    releaseAside(aside);
  }
}

const inUse = (folder: string, by: string): UsageError => new UsageError(`--out: ${by} is working in ${folder}`,
  `wait until it has ended, or choose another --out; if that is no run of rlhf, remove ${join(folder, LOCK_FILE)}`);
