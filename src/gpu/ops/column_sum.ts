import source from '../../../kernels/column_sum.wgsl';
import { gpu } from '../device.ts';
import { kernel } from '../kernel.ts';
import { launch } from '../program.ts';
import { release, scratch, type Tensor } from '../tensor.ts';

const BLOCK = 128; // rows a partial sum takes

/**
 * grad [C] += Σ_rows of dy [N,C], as it is (bias), times the normalised input (norm weight: `x`, `stats` [N,2]; with `bias` [C] += the
 * plain sum in the same two dispatches), or times a number a row (scalar head: `scale` [N]). Two stages in a fixed order.
 */
export function columnSum(grad: Tensor, dy: Tensor, terms: { x: Tensor; stats: Tensor; bias?: Tensor } | { scale: Tensor } | 'plain'): void {
  const bias = terms !== 'plain' && 'x' in terms ? terms.bias : undefined;
  const kind = terms === 'plain' ? 'plain' : 'scale' in terms ? 'scaled' : bias ? 'layer' : 'normed';
  const blocks = Math.ceil(dy.rows / BLOCK);
  if (terms !== 'plain' && 'x' in terms && terms.x.stride !== dy.stride) throw new Error(`sums of columns: strides ${terms.x.stride} and ${dy.stride}`);
  const width = Math.ceil(dy.cols / 4);
  const lanes = gpu().software ? 8 : 64;
  const groups = Math.ceil(width / lanes);
  const words = [dy.rows, dy.stride / 4, width, BLOCK, blocks];
  const part = scratch(bias ? 2 * blocks : blocks, dy.cols);
  const more = terms === 'plain' ? [] : 'x' in terms ? [terms.x, terms.stats] : [terms.scale];
  launch(kernel('column_sum', source, { STAGE: 1, KIND: kind, WG: lanes }), [dy, ...more, part], words, [groups, blocks]);
  const second = kernel('column_sum', source, { STAGE: 2, KIND: bias ? 'layer' : '', WG: lanes });
  launch(second, [part, grad, ...(bias ? [bias] : [])], words, [groups, bias ? 2 : 1]);
  release(part);
}
