import source from '../../../kernels/dropout.wgsl';
import randomSource from '../../../kernels/random.wgsl';
import { kernel } from '../kernel.ts';
import { f32, launch } from '../program.ts';
import { rowGrid } from '../tape.ts';
import type { Tensor } from '../tensor.ts';

/** Which numbers to drop: the same tokens, state and site give the same mask, in the backward pass and in any batch. */
export interface DropoutMask {
  /** [N,2] u32, stride 2: what identifies each row's token in the data set (row of the data, position). */
  tokens: Tensor;
  /** [2] u32: seed, and what changes from step to step (the step's number). */
  state: Tensor;
  /** Which dropout of the model this is (a layer's number, say). */
  site: number;
  /** Probability of dropping, in [0, 1). */
  rate: number;
}

/** out = residual + mask·x/(1 − rate). All [N,C] of one stride; out is neither x nor residual. */
export function dropoutAdd(x: Tensor, residual: Tensor, out: Tensor, mask: DropoutMask): void {
  apply(x, residual, out, mask);
}

/** out = mask·x/(1 − rate): dropout without a residual, and the gradient by x of both forms when x is dy. */
export function dropout(x: Tensor, out: Tensor, mask: DropoutMask): void {
  apply(x, undefined, out, mask);
}

function apply(x: Tensor, residual: Tensor | undefined, out: Tensor, { tokens, state, site, rate }: DropoutMask): void {
  if (!(rate >= 0 && rate < 1)) throw new Error(`dropout rate ${rate} is not in [0, 1)`);
  for (const t of [residual, out]) {
    if (t && (t.rows !== x.rows || t.stride !== x.stride))
      throw new Error(`dropout: [${t.rows},${t.stride}] is not [${x.rows},${x.stride}]`);
  }
  if (x.rows === 0) return;
  const { each, grid } = rowGrid(x.stride / 4, x.rows);
  launch(
    kernel('dropout', `${source}\n${randomSource}`, { ADD: residual !== undefined }),
    [x, ...(residual ? [residual] : []), tokens, state, out],
    [x.rows, each, x.stride / 4, site, Math.floor(rate * 2 ** 32), f32(1 / (1 - rate))],
    grid,
  );
}
