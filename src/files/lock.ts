import { linkSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { hostname, uptime } from 'node:os';
import { join } from 'node:path';
import { UsageError } from '../errors.ts';
import { asideName, outputError, releaseAside } from './atomic.ts';
import { isAlive, startOf } from './process.ts';

/** The file in a folder that says which process works in it. */
const LOCK_FILE = 'rlhf.lock';

/** For so long, a lock that cannot be read is one that is being written. */
const BEING_WRITTEN_MS = 2000;

interface Holder { pid: number; host: string; started: string }

/** Keeps other runs out of a folder, from `take` to `release`. What a killed process held is free. */
export class FolderLock {
  readonly #path: string;
  #held = true;

  private constructor(path: string) {
    this.#path = path;
  }

  /** @throws UsageError where a living process on this machine holds it; RunError where the folder cannot be written */
  static take(folder: string): FolderLock {
    const path = join(folder, LOCK_FILE);
    const own = JSON.stringify({ pid: process.pid, host: hostname(), started: startOf(process.pid) } satisfies Holder);
    for (let tries = 1; ; tries++) {
      const left = checkUnlocked(folder);
      try {
        if (left !== undefined) removeLeft(path, left);
        writeNew(path, own);
        return new FolderLock(path);
      } catch (error) {
        // Another process was faster; it says so itself the next time.
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST' || tries === 9) throw outputError(error, path);
      }
    }
  }

  get held(): boolean {
    return this.#held;
  }

  release(): void {
    if (this.#held) rmSync(this.#path, { force: true });
    this.#held = false;
  }
}

/**
 * Looks for the lock of another run, without writing; returns the text of one that nobody holds any more.
 * @throws UsageError where a living process on this machine works in the folder
 */
export function checkUnlocked(folder: string): string | undefined {
  const path = join(folder, LOCK_FILE);
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    return undefined; // there is none, or the folder cannot be read: told when it is used
  }
  const holder = parsed(text);
  if (!holder) {
    if (Math.abs(Date.now() - writtenAt(path)) < BEING_WRITTEN_MS) throw inUse(folder, 'another run');
    return text;
  }
  // Of a process elsewhere nothing is known: more often it is a container that has ended than one at work on the same disk.
  const { pid, host, started } = holder;
  // Where the system does not say when a process started, one from before its own start has ended.
  if (started === '' && writtenAt(path) < Date.now() - 1000 * uptime()) return text;
  if (host !== hostname() || !isAlive(pid) || started !== startOf(pid)) return text;
  throw inUse(folder, `process ${pid}`);
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
  renameSync(path, aside);
  if (readFileSync(aside, 'utf8') === left) rmSync(aside);
  else renameSync(aside, path);
  releaseAside(aside);
}

const inUse = (folder: string, by: string): UsageError => new UsageError(`--out: ${by} is working in ${folder}`,
  `wait until it has ended, or choose another --out; if that is no run of rlhf, remove ${join(folder, LOCK_FILE)}`);
