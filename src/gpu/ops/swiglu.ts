import source from '../../../kernels/swiglu.wgsl';
import { kernel } from '../kernel.ts';
import { launch } from '../program.ts';
import { rowGrid, type Tape } from '../tape.ts';
import { release, scratch, type Tensor } from '../tensor.ts';

/** y [N,F] = silu(gate)·up for gateUp [N, 2F] (gates first), with its gradient (Shazeer 2020). F is a multiple of 4. */
export function swiglu(tape: Tape, gateUp: Tensor): Tensor {
  const width = gateUp.cols / 2;
  if (width % 4) throw new Error(`SwiGLU width ${width} is not a multiple of 4`);
  const y = tape.value(gateUp.rows, width);
  const { each, grid } = rowGrid(width / 4, gateUp.rows);
  const words = [gateUp.rows, each, width / 4, gateUp.stride / 4, y.stride / 4];
  launch(kernel('swiglu', source, { GRAD: false }), [gateUp, y], words, grid);
  tape.push([gateUp], () => {
    const dy = tape.take(y);
    const gradient = scratch(gateUp.rows, gateUp.cols);
    launch(kernel('swiglu', source, { GRAD: true }), [gateUp, dy, gradient], words, grid);
    release(dy);
    tape.give(gateUp, gradient);
  });
  return y;
}
