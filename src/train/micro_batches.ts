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
