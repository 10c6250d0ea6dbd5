import { scratch, release, type Tensor } from '../tensor.ts';
import type { Parameter, Tape } from '../tape.ts';
import { columnSum } from './column_sum.ts';
import { expand, lowRankGradients, project, type LowRank } from './low_rank.ts';
import { matmul } from './matmul.ts';

/** How a weight matrix lies: [out, in] as torch's Linear keeps it, or [in, out] as GPT-2's Conv1D does. */
export type Layout = 'out_in' | 'in_out';

export interface LinearOptions {
  layout: Layout;
  bias?: Parameter;
  /** Added to the result: y = x·W + b + residual. */
  residual?: Tensor;
  /** A low-rank update of W. */
  lora?: LowRank;
}

/** y [N, out] = x [N, in] · W (+ bias) (+ residual) (+ low-rank update), with its gradient. */
export function linear(tape: Tape, x: Tensor, w: Parameter, options: LinearOptions): Tensor {
  const { layout, bias, residual, lora } = options;
  const out = layout === 'out_in' ? w.value.rows : w.value.cols;
  const y = residual ? scratch(x.rows, out) : tape.value(x.rows, out);
  matmul(layout === 'out_in' ? 'nt' : 'nn', x, w.value, y,
    residual ? { kind: 'residual', bias: bias?.value, residual } : { kind: 'plain', bias: bias?.value });
  const u = lora && project(x, lora); // [N,R]
  if (lora) expand(u!, lora, y);
  tape.push(u ? [x, u] : [x], () => {
    const dy = tape.take(y);
    weightGradients(x, dy, w, layout, bias);
    const { gradient, add } = tape.target(x);
    matmul(layout === 'out_in' ? 'nn' : 'nt', dy, w.value, gradient, add ? { kind: 'add' } : { kind: 'plain' });
    if (lora) lowRankGradients(x, u!, dy, lora, gradient);
    if (residual) tape.give(residual, dy);
    else release(dy);
  });
  tape.done(u);
  return y;
}

function weightGradients(x: Tensor, dy: Tensor, w: Parameter, layout: Layout, bias?: Parameter): void {
  if (w.grad) {
    if (layout === 'out_in') matmul('tn', dy, x, w.grad, { kind: 'add' });
    else matmul('tn', x, dy, w.grad, { kind: 'add', columns: bias?.grad });
  }
  if (bias?.grad && !(w.grad && layout === 'in_out')) columnSum(bias.grad, dy, 'plain');
}

/**
 * GPT-2's MLP, y = gelu(x·W1 + b1)·W2 + b2 + residual, as one op, so that gelu's gradient is fused into the store of the
 * product before it. x [N,C], hidden [N,F], y [N,C].
 */
export function geluMlp(tape: Tape, x: Tensor, up: Parameter, upBias: Parameter | undefined, down: Parameter,
  downBias: Parameter | undefined, options: { layout: Layout; gelu: 'tanh' | 'erf'; residual?: Tensor; upLora?: LowRank; downLora?: LowRank }): Tensor {
  const { layout, gelu, residual, upLora, downLora } = options;
  const forward = layout === 'out_in' ? 'nt' : 'nn';
  const backward = layout === 'out_in' ? 'nn' : 'nt';
  const hidden = layout === 'out_in' ? up.value.rows : up.value.cols;
  // Only the gradient, and the low-rank update, which is added to it, ask for what gelu is taken of.
  const preactivation = tape.training || upLora ? tape.value(x.rows, hidden) : undefined;
  const activated = tape.value(x.rows, hidden);
  const u = upLora && project(x, upLora);
  if (upLora) {
    matmul(forward, x, up.value, preactivation!, { kind: 'plain', bias: upBias?.value });
    expand(u!, upLora, activated, { kind: 'gelu_more', preactivation: preactivation!, act: gelu });
  } else matmul(forward, x, up.value, activated, { bias: upBias?.value, act: gelu, ...(preactivation ? { kind: 'gelu', preactivation } : { kind: 'gelu_alone' }) });
  const y = residual ? scratch(x.rows, x.cols) : tape.value(x.rows, x.cols);
  matmul(forward, activated, down.value, y,
    residual ? { kind: 'residual', bias: downBias?.value, residual } : { kind: 'plain', bias: downBias?.value });
  const v = downLora && project(activated, downLora);
  if (downLora) expand(v!, downLora, y);
  tape.push([x, activated, ...[preactivation, u, v].filter((t) => t !== undefined)], () => {
    const dy = tape.take(y);
    weightGradients(activated, dy, down, layout, downBias);
    const dHidden = scratch(x.rows, hidden);
    if (downLora) {
      matmul(backward, dy, down.value, dHidden);
      lowRankGradients(activated, v!, dy, downLora, dHidden, { kind: 'gelu_grad_more', preactivation: preactivation!, act: gelu });
    } else matmul(backward, dy, down.value, dHidden, { kind: 'gelu_grad', preactivation: preactivation!, act: gelu });
    weightGradients(x, dHidden, up, layout, upBias);
    const { gradient, add } = tape.target(x);
    matmul(backward, dHidden, up.value, gradient, add ? { kind: 'add' } : { kind: 'plain' });
    if (upLora) lowRankGradients(x, u!, dHidden, upLora, gradient);
    release(dHidden);
    if (residual) tape.give(residual, dy);
    else release(dy);
  });
  tape.done(preactivation, activated, u, v);
  return y;
}
