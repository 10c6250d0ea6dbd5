import source from '../../../kernels/norm.wgsl';
import gradSource from '../../../kernels/norm_grad.wgsl';
import { cpuLanes } from '../device.ts';
import { f32, launch } from '../program.ts';
import type { Parameter, Tape } from '../tape.ts';
import { release, rowVec4s, scratch, type Tensor } from '../tensor.ts';
import { columnSum } from './column_sum.ts';
import { fewRowsLanes, grid, lanesFor, lanesOfRow, rowKernel } from './reduction.ts';

/** A lane keeps so many vec4s of its row in registers; a longer row is read again for each of the sums. */
const MOST_OWN = 8;

/** On a CPU: rows that a workgroup's lanes take one after another, with the weights in registers; 64 rows still occupy some threads. */
const TURNS = 8;

/** Layer norm (`bias` given) or RMS norm of x [N,C], a row at a time, with its gradient. */
export function norm(tape: Tape, x: Tensor, kind: 'layer' | 'rms', weight: Parameter, bias: Parameter | undefined, eps: number): Tensor {
  const y = tape.value(x.rows, x.cols);
  const stats = scratch(x.rows, 2, 2);
  const ld = rowVec4s(x);
  const lanes = cpuLanes() ? fewRowsLanes() : lanesFor(ld, MOST_OWN);
  const turns = cpuLanes() ? TURNS : 1;
  const each = Math.ceil(ld / lanesOfRow(lanes)); // vec4s a lane
  const own = { ...(each <= MOST_OWN ? { OWN: each, LD: ld } : { OWN: 0, LD: 0 }), TURNS: turns > 1 };
  const forward = rowKernel('norm', source, lanes, { KIND: kind, ...own });
  const groups = grid(Math.ceil(x.rows / forward.rows / turns));
  launch(forward.made, [x, weight.value, ...(kind === 'layer' ? [bias!.value] : []), y, stats],
    [x.rows, x.cols, ld, f32(eps), turns], groups);
  tape.push([x, stats], () => {
    const dy = tape.take(y);
    if (weight.grad) columnSum(weight.grad, dy, { x, stats, bias: bias?.grad });
    else if (bias?.grad) columnSum(bias.grad, dy, 'plain');
    const { gradient, add } = tape.target(x);
    launch(rowKernel('norm_grad', gradSource, lanes, { KIND: kind, ADD: add, ...own }).made, [x, weight.value, stats, dy, gradient],
      [x.rows, x.cols, ld, turns], groups);
    release(dy);
  });
  tape.done(stats);
  return y;
}
