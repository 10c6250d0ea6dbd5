import { gpu } from '../gpu/device.ts';
import type { PackRow } from '../model/batch.ts';
import { shareBeginnings } from '../model/shared_beginnings.ts';

/** Tokens in one forward and backward pass where --micro-batch-tokens does not say. */
export const defaultMicroBatchTokens = (): number => (gpu().software ? 2048 : 16384);

/** The length of the longest row; there may be more rows than a call takes arguments. */
export const longestOf = (rows: Iterable<ArrayLike<number>>): number => {
  let longest = 0;
  for (const { length } of rows) longest = Math.max(longest, length);
  return longest;
};

/** Splits things in their order into passes of at most `budget` tokens (a larger one goes alone), as they come. */
export function* inPasses<T>(things: Iterable<T>, size: (thing: T) => number, budget: number): Generator<T[]> {
  let part: T[] = [];
  let tokens = 0;
  for (const thing of things) {
    const own = size(thing);
    if (part.length > 0 && tokens + own > budget) {
      yield part;
      part = [];
      tokens = 0;
    }
    part.push(thing);
    tokens += own;
  }
  if (part.length > 0) yield part;
}

/** Splits rows in their order into passes of at most `budget` tokens (a longer row goes alone), as they come. */
export const microBatches = <Row extends PackRow>(rows: Iterable<Row>, budget: number): Generator<Row[]> =>
  inPasses(rows, ({ ids }) => ids.length, budget);

/** Tokens that are looked at for beginnings to share, in passes. */
const WINDOW = 8;

/** As microBatches, with what neighbours begin with computed once (see shareBeginnings) in each pass. */
export function* sharedBatches(rows: Iterable<PackRow>, budget: number): Generator<PackRow[]> {
  for (const window of microBatches(rows, WINDOW * budget)) {
    for (const part of inPasses(unitsOf(shareBeginnings(window), budget), tokensOf, budget)) yield part.flat();
  }
}

/** Rows each by itself, or a beginning with the rows that go on from it, again before those that a pass has no room for. */
function* unitsOf(rows: readonly PackRow[], budget: number): Generator<PackRow[]> {
  for (let i = 0; i < rows.length;) {
    const row = rows[i++]!;
    if (!row.begins) {
      yield [row];
      continue;
    }
    for (let left = row.begins; left > 0;) {
      const followers = [rows[i++]!];
      let tokens = row.ids.length + followers[0]!.ids.length;
      while (followers.length < left && tokens + rows[i]!.ids.length <= budget) {
        tokens += rows[i]!.ids.length;
        followers.push(rows[i++]!);
      }
      left -= followers.length;
      yield [{ ...row, begins: followers.length }, ...followers];
    }
  }
}

/** The rows from which something may be picked. */
export const pickedRows = (rows: readonly PackRow[]): PackRow[] => rows.filter(({ begins }) => !begins);

export const tokensOf = (rows: readonly PackRow[]): number => rows.reduce((sum, { ids }) => sum + ids.length, 0);

/** Below it a pass takes about as long as for so many. */
const SMALL_PASS = 1024;

/**
 * Tokens of a pass without gradients beside training passes of at most `largest` tokens (0: not known): its buffers are then hardly larger than
 * theirs and are taken from them, where a few much larger ones would be of no use in training.
 */
export const readingTokens = (budget: number, largest: number): number =>
  largest === 0 ? budget : Math.min(budget, Math.max(largest, SMALL_PASS));
