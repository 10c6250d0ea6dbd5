import source from '../../../kernels/zero_outside_blocks.wgsl';
import { kernel } from '../kernel.ts';
import { launch } from '../program.ts';
import { spread, type Parameter } from '../tape.ts';
import { release, scratch, type Tensor } from '../tensor.ts';
import { matmul, type Store } from './matmul.ts';

/**
 * A low-rank update of a weight matrix W (LoRA, Hu et al. 2021, section 4.1): x·W becomes x·W + scale·(x·Aᵀ)·Bᵀ. Of
 * matrices fused along their outputs, the A's lie below one another and B is block-diagonal: one product each.
 */
export interface LowRank {
  /** [R, in] */
  a: Parameter;
  /** [out, R] */
  b: Parameter;
  /** alpha / rank */
  scale: number;
  /** Where B is block-diagonal: R of one block, and the rows of each. */
  blocks?: { rank: number; rows: readonly (readonly [first: number, last: number])[] };
}

/** u = x·Aᵀ [N, R], which the backward pass needs. */
export function project(x: Tensor, { a }: LowRank): Tensor {
  const u = scratch(x.rows, a.value.rows);
  matmul('nt', x, a.value, u);
  return u;
}

/** y += scale·u·Bᵀ, with what `store` makes of it. */
export function expand(u: Tensor, { b, scale }: LowRank, y: Tensor, store: Store = { kind: 'add' }): void {
  matmul('nt', u, b.value, y, { ...store, scale } as Store);
}

/**
 * From dy [N, out]: the gradients of A and B, and dx += scale·(dy·B)·A (with what `store` makes of it; dx holds the
 * gradient through W already).
 */
export function lowRankGradients(x: Tensor, u: Tensor, dy: Tensor, lora: LowRank, dx: Tensor, store: Store = { kind: 'add' }): void {
  const { a, b, scale, blocks } = lora;
  const du = scratch(dy.rows, b.value.cols);
  matmul('nn', dy, b.value, du);
  if (b.grad) {
    matmul('tn', dy, u, b.grad, { kind: 'add', scale });
    if (blocks) zeroOutside(b.grad, blocks);
  }
  if (a.grad) matmul('tn', du, x, a.grad, { kind: 'add', scale });
  matmul('nn', du, a.value, dx, { ...store, scale } as Store);
  release(du);
}

function zeroOutside(b: Tensor, { rank, rows }: NonNullable<LowRank['blocks']>): void {
  if (rows.length > 4) throw new Error(`${rows.length} blocks, at most 4 are possible`);
  const ranges = [...rows.flat(), ...new Array<number>(8 - 2 * rows.length).fill(0)];
  launch(kernel('zero_outside_blocks', source), [b], [b.rows, b.stride, rank, rows.length, ...ranges], spread(b.rows * b.stride));
}
