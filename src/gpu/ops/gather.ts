import source from '../../../kernels/gather.wgsl';
import { kernel } from '../kernel.ts';
import { launch } from '../program.ts';
import { rowGrid, type Tape } from '../tape.ts';
import { release, rowVec4s, scratch, type Tensor } from '../tensor.ts';

/** No row: gathers zeros. */
export const NONE = 0xffffffff;

/** y [M,C] = x [N,C] at rows `index` [M], which repeat none; `inverse` [N] gives each row's place in y, or NONE. */
export function gather(tape: Tape, x: Tensor, index: Tensor, inverse: Tensor): Tensor {
  const y = scratch(index.rows, x.cols, x.stride, x.storage);
  const ld = rowVec4s(x);
  const rows = rowGrid(ld, y.rows);
  launch(kernel('gather', source, { ADD: false }), [index, x, y], [y.rows, rows.each, ld], rows.grid);
  tape.push([], () => {
    const dy = tape.take(y);
    const { gradient, add } = tape.target(x);
    const { each, grid } = rowGrid(ld, x.rows);
    launch(kernel('gather', source, { ADD: add }), [inverse, dy, gradient], [x.rows, each, ld], grid);
    release(dy);
  });
  return y;
}
