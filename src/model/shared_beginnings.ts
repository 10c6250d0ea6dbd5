import { MOST_SHARED } from '../gpu/ops/attention.ts';
import type { PackRow } from './batch.ts';

/** Rows behind one another that share fewer tokens are left as they are: a row more in the batch costs about as much. */
const FEWEST = 4;

/**
 * The same rows with the tokens that neighbours begin with, such as the prompt of K responses, in the batch once: they are computed once, and
 * each row goes on from them with its own (`begins` in PackRow). What is read of a row has the same bits as alone; gradients are the
 * same sums in another order. At least what is first picked from of a row stays its own.
 */
export function shareBeginnings(rows: readonly PackRow[]): PackRow[] {
  const shared: PackRow[] = [];
  for (let i = 0; i < rows.length;) {
    let tokens = mayShare(rows[i]!);
    let count = 1;
    let all = rows[i]!.ids.length;
    for (; i + count < rows.length; count++) {
      const next = rows[i + count]!;
      const common = commonLength(rows[i]!.ids, next.ids, Math.min(tokens, mayShare(next)));
      if (common < FEWEST || count * common < (count - 1) * tokens || all + next.ids.length > MOST_SHARED) break;
      tokens = common;
      all += next.ids.length;
    }
    if (count === 1) shared.push(rows[i]!);
    else {
      const { ids, key } = rows[i]!;
      shared.push({ ids: part(ids, 0, tokens), at: [], key, begins: count });
      for (const row of rows.slice(i, i + count)) {
        shared.push({ ...row, ids: part(row.ids, tokens, row.ids.length), at: Array.from(row.at, (place) => place - tokens) });
      }
    }
    i += count;
  }
  return shared;
}

/** How many tokens of a row may lie elsewhere. */
const mayShare = ({ ids, at, segments }: PackRow): number => (segments ? 0 : Math.min(ids.length - 1, ...(at.length > 0 ? [at[0]!] : [])));

function commonLength(a: ArrayLike<number>, b: ArrayLike<number>, most: number): number {
  let n = 0;
  while (n < most && a[n] === b[n]) n++;
  return n;
}

const part = (ids: ArrayLike<number>, from: number, to: number): ArrayLike<number> =>
  (ids instanceof Int32Array ? ids.subarray(from, to) : Array.from(ids).slice(from, to));
