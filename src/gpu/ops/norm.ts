import source from '../../../kernels/norm.wgsl';
import gradSource from '../../../kernels/norm_grad.wgsl';
import { gpu } from '../device.ts';
import { kernel } from '../kernel.ts';
import { f32, launch } from '../program.ts';
import type { Parameter, Tape } from '../tape.ts';
import { release, scratch, type Tensor } from '../tensor.ts';
import { columnSum } from './column_sum.ts';

/** Rows that a workgroup of a row reduction takes: a subgroup a row, or the whole workgroup. */
export const rowsPerGroup = (subgroup = gpu().subgroup): number => (subgroup ? 64 / subgroup : 1);

/** Layer norm (`bias` given) or RMS norm of x [N,C], a row at a time, with its gradient. */
export function norm(tape: Tape, x: Tensor, kind: 'layer' | 'rms', weight: Parameter, bias: Parameter | undefined, eps: number): Tensor {
  const y = scratch(x.rows, x.cols);
  const stats = scratch(x.rows, 2, 2);
  const groups: [number] = [Math.ceil(x.rows / rowsPerGroup())];
  const ld = x.stride / 4;
  launch(kernel('norm', source, { KIND: kind }), [x, weight.value, ...(kind === 'layer' ? [bias!.value] : []), y, stats],
    [x.rows, x.cols, ld, f32(eps)], groups);
  tape.push([x, stats], () => {
    const dy = tape.take(y);
    if (weight.grad) columnSum(weight.grad, dy, { x, stats });
    if (bias?.grad) columnSum(bias.grad, dy, 'plain');
    const { gradient, add } = tape.target(x);
    launch(kernel('norm_grad', gradSource, { KIND: kind, ADD: add }), [x, weight.value, stats, dy, gradient], [x.rows, x.cols, ld], groups);
    release(dy);
  });
  tape.done(stats);
  return y;
}
