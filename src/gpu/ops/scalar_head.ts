import source from '../../../kernels/scalar_head.wgsl';
import { kernel } from '../kernel.ts';
import { launch } from '../program.ts';
import { spread, type Parameter, type Tape } from '../tape.ts';
import { rowVec4s, scratch, type Tensor } from '../tensor.ts';
import { columnSum } from './column_sum.ts';
import { grid, rowKernel, rowLanes } from './reduction.ts';

/**
 * r [M] = gain·(h [M,C] · w [1,C]) + bias, `scale` = (gain, bias): rewards and values. The gradient comes from `dr` [M] when
 * the backward pass runs; w's is exact for gain 1, which is what training uses.
 */
export function scalarHead(tape: Tape, h: Tensor, w: Parameter, scale: Tensor, r: Tensor, dr?: Tensor): void {
  const ld = rowVec4s(h);
  const { made, rows } = rowKernel('scalar_head', source, rowLanes(), { GRAD: false });
  launch(made, [w.value, scale, h, r], [h.rows, ld], grid(Math.ceil(h.rows / rows)));
  tape.push([h], () => {
    if (w.grad) columnSum(w.grad, h, { scale: dr! });
    const gradient = scratch(h.rows, h.cols);
    launch(kernel('scalar_head', source, { GRAD: true }), [w.value, scale, dr!, gradient], [h.rows, ld], spread(h.rows * ld));
    tape.give(h, gradient);
  });
}
