import { gpu } from '../gpu/device.ts';
import type { PackRow } from '../model/batch.ts';

/** Tokens in one forward and backward pass where --micro-batch-tokens does not say. */
export const defaultMicroBatchTokens = (): number => (gpu().software ? 2048 : 16384);

/** Splits rows in their order into passes of at most `budget` tokens (a longer row goes alone), as they come. */
export function* microBatches<Row extends PackRow>(rows: Iterable<Row>, budget: number): Generator<Row[]> {
  let part: Row[] = [];
  let tokens = 0;
  for (const row of rows) {
    if (part.length > 0 && tokens + row.ids.length > budget) {
      yield part;
      part = [];
      tokens = 0;
    }
    part.push(row);
    tokens += row.ids.length;
  }
  if (part.length > 0) yield part;
}

export const tokensOf = (rows: readonly PackRow[]): number => rows.reduce((sum, { ids }) => sum + ids.length, 0);

/** Below it a pass takes about as long as for so many. */
const SMALL_PASS = 1024;

/**
 * Tokens of a pass without gradients beside training passes of at most `largest` tokens (0: not known): its buffers are then hardly larger than
 * theirs and are taken from them, where a few much larger ones would be of no use in training.
 */
export const readingTokens = (budget: number, largest: number): number =>
  largest === 0 ? budget : Math.min(budget, Math.max(largest, SMALL_PASS));
