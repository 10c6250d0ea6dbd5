import columnSource from '../../../kernels/first_column.wgsl';
import gradSource from '../../../kernels/likelihood_grad.wgsl';
import sumSource from '../../../kernels/weighted_sum.wgsl';
import { kernel } from '../kernel.ts';
import { launch } from '../program.ts';
import type { Tensor } from '../tensor.ts';
import { wideKernel, wideLanes } from './reduction.ts';

/** totals [2,4] += Σ over picks of each of the two weights [M,2] times stats [M,4]. */
export function weightedSum(stats: Tensor, weights: Tensor, totals: Tensor): void {
  launch(wideKernel('weighted_sum', sumSource, wideLanes()), [stats, weights, totals], [stats.rows], [1]);
}

/** dLogp [M] of the weighted negative log-likelihood, for weights [M,2]. */
export function likelihoodGradient(weights: Tensor, dLogp: Tensor): void {
  launch(kernel('likelihood_grad', gradSource), [weights, dLogp], [weights.rows], [Math.ceil(weights.rows / 64)]);
}

/** out [M] = the first column of stats [M,4]: the log-probabilities. */
export function firstColumn(stats: Tensor, out: Tensor): void {
  launch(kernel('first_column', columnSource), [stats, out], [stats.rows], [Math.ceil(stats.rows / 64)]);
}
