import { closeSync, fstatSync, fsyncSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { outputError } from '../files/atomic.ts';

/** A rankings file that rows are appended to; a row is on the disk when `append` returns. */
export class RankingsFile {
  #file: number;

  /** @throws RunError where the file cannot be written */
  constructor(readonly path: string) {
    this.#file = this.#try(() => openSync(path, 'a+'));
    this.#try(() => this.#mend());
  }

  append(line: string): void {
    const bytes = Buffer.from(`${line}\n`);
    this.#try(() => {
      for (let at = 0; at < bytes.length; ) at += writeSync(this.#file, bytes, at);
      fsyncSync(this.#file);
    });
  }

  get isEmpty(): boolean {
    return fstatSync(this.#file).size === 0;
  }

  close(): void {
    closeSync(this.#file);
  }

  /** A last line without its end is what a crash left of a row, or a file made by hand: kept only where it is JSON. */
  #mend(): void {
    const { size } = fstatSync(this.#file);
    let line = Buffer.alloc(0);
    let begin = size;
    while (begin > 0 && !line.includes(10)) {
      const chunk = Buffer.alloc(Math.min(65536, begin));
      begin -= chunk.length;
      readSync(this.#file, chunk, 0, chunk.length, begin);
      line = Buffer.concat([chunk, line]);
    }
    const after = line.lastIndexOf(10) + 1;
    const rest = line.subarray(after);
    if (rest.length === 0) return;
    try {
      JSON.parse(rest.toString());
      writeSync(this.#file, '\n');
    } catch {
      ftruncateSync(this.#file, begin + after);
    }
  }

  #try<T>(action: () => T): T {
    try {
      return action();
    } catch (error) {
      throw outputError(error, this.path);
    }
  }
}
