import { dropout, dropoutAdd } from '../gpu/ops/dropout.ts';
import { scratch, type Tensor } from '../gpu/tensor.ts';
import type { BatchTensors } from './batch.ts';
import type { Join } from './decoder.ts';

/**
 * Dropout of each branch before it joins the residual stream (Ouyang et al. 2022, appendix C.1: "residual dropout").
 * `state` = (seed, step), uploaded before each step: a token's mask depends on them, its row and its place alone.
 */
export const residualDropout = (rate: number, state: Tensor) => (input: BatchTensors): Join =>
  (tape, branch, residual, site) => {
    const mask = { tokens: input.keys, state, site, rate };
    const out = scratch(branch.rows, branch.cols, branch.stride);
    dropoutAdd(branch, residual, out, mask);
    tape.push([], () => {
      const dy = tape.take(out);
      const gradient = scratch(dy.rows, dy.cols, dy.stride);
      dropout(dy, gradient, mask);
      tape.give(branch, gradient);
      tape.give(residual, dy);
    });
    return out;
  };
