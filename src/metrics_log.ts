import { closeSync, fsyncSync, ftruncateSync, fstatSync, openSync, readSync, writeSync } from 'node:fs';
import { outputError } from './files/atomic.ts';

/** Metrics of one step; `step` counts from 1, the rest are the names of the metrics table. */
export type Metrics = { step: number } & Record<string, unknown>;

/**
 * metrics.jsonl: one JSON object a step, with the system as soon as it is appended, on the disk after `sync`. Numbers
 * that are not finite become null. Writing fails with a RunError where the disk is full.
 */
export class MetricsLog {
  #file: number | undefined;

  constructor(readonly path: string) {
    this.#file = this.#try(() => openSync(path, 'a+'));
  }

  append(metrics: Metrics): void {
    const line = Buffer.from(`${JSON.stringify(metrics)}\n`);
    this.#try(() => {
      for (let at = 0; at < line.length;) at += writeSync(this.#open(), line, at);
    });
  }

  /** Brings what was appended onto the disk; call it before a checkpoint counts as written. */
  sync(): void {
    this.#try(() => fsyncSync(this.#open()));
  }

  /** Drops the lines after `step`, and a last line that a killed run left unfinished. */
  cutBack(step: number): void {
    this.#try(() => {
      const file = this.#open();
      const content = Buffer.alloc(fstatSync(file).size);
      for (let at = 0, n = 1; at < content.length && n > 0; at += n)
        n = readSync(file, content, at, content.length - at, at);
      ftruncateSync(file, keptBytes(content, step));
      fsyncSync(file);
    });
  }

  close(): void {
    if (this.#file === undefined) return;
    const file = this.#file;
    this.#file = undefined;
    this.#try(() => closeSync(file));
  }

  #open(): number {
    if (this.#file === undefined) throw new Error(`${this.path} is closed`);
    return this.#file;
  }

  #try<T>(action: () => T): T {
    try {
      return action();
    } catch (error) {
      throw outputError(error, this.path);
    }
  }
}

/** Length of the whole lines up to the first one that is later than `step` or is no metrics line. */
function keptBytes(content: Buffer, step: number): number {
  let kept = 0;
  for (let end = content.indexOf(10); end >= 0; end = content.indexOf(10, kept)) {
    try {
      const line = JSON.parse(content.toString('utf8', kept, end)) as Metrics;
      if (!(line.step <= step)) return kept;
    } catch {
      return kept;
    }
    kept = end + 1;
  }
  return kept;
}
