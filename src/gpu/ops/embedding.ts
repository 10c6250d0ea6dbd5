import source from '../../../kernels/embedding.wgsl';
import gradSource from '../../../kernels/embedding_grad.wgsl';
import { gpu } from '../device.ts';
import { kernel } from '../kernel.ts';
import { launch } from '../program.ts';
import { rowGrid, slicesOf, type Parameter, type Tape } from '../tape.ts';
import { release, scratch, type Tensor } from '../tensor.ts';
import { grid } from './reduction.ts';

/** Which tokens have which id, sorted on the host: `runs` [R,4] = (id, first, end, 0), `order` [N]. */
export interface Occurrences {
  runs: Tensor;
  order: Tensor;
}

/**
 * x [N,C] = tokens[ids] (+ positions[at]), with the gradients added to both tables by `ids`' and `at`'s occurrences.
 * ids, at: [N] unsigned.
 */
export function embedding(tape: Tape, ids: Tensor, tokens: Parameter, idRuns: Occurrences | undefined,
  learned?: { at: Tensor; positions: Parameter; runs?: Occurrences }): Tensor {
  const x = scratch(ids.rows, tokens.value.cols);
  const ld = x.stride / 4;
  const { each, grid } = rowGrid(ld, x.rows);
  for (const { value, firstRow } of slicesOf(tokens)) {
    launch(kernel('embedding', source, { LEARNED: learned !== undefined }),
      [ids, value, ...(learned ? [learned.at, learned.positions.value] : []), x], [x.rows, each, ld, firstRow, value.rows], grid);
  }
  tape.push([], () => {
    const dx = tape.take(x);
    scatter(tokens, idRuns, dx);
    if (learned) scatter(learned.positions, learned.runs, dx);
    release(dx);
  });
  return x;
}

function scatter(table: Parameter, occurrences: Occurrences | undefined, dx: Tensor): void {
  if (!table.grad) return;
  if (!occurrences) throw new Error('the gradient of an embedding needs its occurrences');
  const ld = dx.stride / 4;
  const lanes = gpu().software ? 8 : 64;
  for (const { grad, firstRow } of slicesOf(table)) {
    launch(kernel('embedding_grad', gradSource, { WG: lanes }), [occurrences.runs, occurrences.order, dx, grad!],
      [ld, firstRow, grad!.rows, occurrences.runs.rows], [Math.ceil(ld / lanes), ...grid(occurrences.runs.rows)]);
  }
}

/**
 * Sorts token numbers by id for `runs` (`capacity` rows of 4) and `order`. Tokens from `count` on are padding and left out;
 * a table of `capacity` ≥ the number of distinct ids is needed.
 */
export function occurrencesOf(ids: Uint32Array, count: number, capacity: number): { runs: Uint32Array; order: Uint32Array } {
  const order = new Uint32Array(ids.length);
  const runs = new Uint32Array(capacity * 4);
  let largest = 0;
  for (let n = 0; n < count; n++) largest = Math.max(largest, ids[n]);
  const ends = new Uint32Array(largest + 1); // first how often each comes
  for (let n = 0; n < count; n++) ends[ids[n]]++;
  let [at, run] = [0, 0];
  for (let id = 0; id <= largest; id++) {
    const times = ends[id];
    ends[id] = at;
    if (times === 0) continue;
    runs.set([id, at, at + times], 4 * run++);
    at += times;
  }
  for (let n = 0; n < count; n++) order[ends[ids[n]]++] = n;
  return { runs, order };
}
