import { fstatSync } from 'node:fs';

/** Milliseconds after which what is there is worked on, though there is room for more. */
const PATIENCE = 20;

/**
 * How long a command that answers while it reads waits for the next row when it could work on those it has: without end for files, so that
 * batches do not depend on time, and a moment for pipes and terminals, whose writer may be waiting for an answer.
 */
export function patienceWith(sources: readonly string[]): number {
  if (!sources.includes('-')) return Infinity;
  try {
    return fstatSync(0).isFile() ? Infinity : PATIENCE;
  } catch {
    return Infinity; // closed
  }
}

/** The items of a source that can be asked for with patience. */
export class Arrivals<T> {
  private readonly source: Iterator<T> | AsyncIterator<T>;
  private pending: Promise<IteratorResult<T>> | undefined;

  constructor(source: Iterable<T> | AsyncIterable<T>) {
    this.source = Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
  }

  /** The next item or the source's end, or undefined where neither comes within `patience` milliseconds: then the next call returns it. */
  async next(patience = Infinity): Promise<IteratorResult<T> | undefined> {
    this.pending ??= Promise.resolve(this.source.next());
    const come = patience === Infinity ? await this.pending : await within(this.pending, patience);
    if (come) this.pending = undefined;
    return come;
  }
}

function within<T>(promise: Promise<T>, milliseconds: number): Promise<T | undefined> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds, undefined);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
