import { gpu } from '../gpu/device.ts';
import type { PackRow } from '../model/batch.ts';

/** Tokens in one forward and backward pass where --micro-batch-tokens does not say. */
export const defaultMicroBatchTokens = (): number => (gpu().software ? 2048 : 16384);

/** Splits rows in their order into passes of at most `budget` tokens (a longer row goes alone). */
export function microBatches<Row extends PackRow>(rows: readonly Row[], budget: number): Row[][] {
  const batches: Row[][] = [];
  let tokens = Infinity;
  for (const row of rows) {
    if (tokens + row.ids.length > budget) {
      batches.push([]);
      tokens = 0;
    }
    batches.at(-1)!.push(row);
    tokens += row.ids.length;
  }
  return batches;
}
