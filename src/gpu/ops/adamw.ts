import adamwSource from '../../../kernels/adamw.wgsl';
import normSource from '../../../kernels/gradient_norm.wgsl';
import { kernel } from '../kernel.ts';
import { f32, launch } from '../program.ts';
import { release, scratch, type Tensor } from '../tensor.ts';
import { grid, type Lanes, wideKernel, wideLanes } from './reduction.ts';

/** vec4s of a gradient that one workgroup sums. */
const BLOCK = 4096;

const vec4sOf = (t: Tensor): number => {
  const n = t.rows * t.stride;
  if (n % 4) throw new Error(`a chunk of ${n} numbers: the optimiser's kernels need a multiple of 4`);
  return n / 4;
};

/**
 * Global l2 norm over all chunks, padding (zeros) included. `out` is a vector of 4: norm; clip coefficient
 * min(1, maxNorm/(norm + 1e-6)) as torch’s clip_grad_norm_; 1 if the norm is finite, else 0 (as is the coefficient); 0.
 * Exact to float32 rounding for norms from 1e-16 to 1e18. `maxNorm` 0 or absent: no clipping, coefficient 1.
 */
export function gradientNorm(
  io: { gradients: Tensor[]; out: Tensor; maxNorm?: number },
  lanes: Lanes = wideLanes(),
): void {
  const counts = io.gradients.map((g) => Math.ceil(vec4sOf(g) / BLOCK));
  const total = counts.reduce((sum, n) => sum + n, 0);
  const partial = scratch(1, Math.max(total, 1), Math.max(total, 1));
  const squares = wideKernel('gradient_norm', normSource, lanes, { STAGE: 'squares', BLOCK });
  let first = 0;
  io.gradients.forEach((g, i) => {
    if (counts[i] > 0) launch(squares, [g, partial], [vec4sOf(g), first, counts[i]], grid(counts[i]));
    first += counts[i];
  });
  launch(
    wideKernel('gradient_norm', normSource, lanes, { STAGE: 'total', BLOCK }),
    [partial, io.out],
    [total, f32(io.maxNorm ?? 0)],
    [1],
  );
  release(partial);
}

/** AdamW's settings; `step` counts updates from 1. */
export interface AdamSettings {
  lr: number;
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
}

/** Length of the vector that `adamw` reads its settings from. */
export const HYPER_LENGTH = 8;

/** The settings of update number `step` (the first is 1) as `adamw` reads them; bias corrections in doubles. */
export function hyperAt(step: number, { lr, beta1, beta2, eps, weightDecay }: AdamSettings): Float32Array {
  if (!(step >= 1)) throw new Error(`AdamW's first step is 1, not ${step}`);
  return Float32Array.of(
    lr,
    1 - beta1,
    1 - beta2,
    eps,
    lr * weightDecay,
    1 / (1 - beta1 ** step),
    1 / (1 - beta2 ** step),
    0,
  );
}

/** A chunk of parameters with its gradient and moments: four tensors of the same length, a multiple of 4. */
export interface AdamChunk {
  values: Tensor;
  gradients: Tensor;
  m: Tensor;
  v: Tensor;
  /** How many numbers, from the first, are decayed: a multiple of 4. */
  decayCount: number;
}

/**
 * One AdamW step in place (Loshchilov and Hutter 2019; the denominator √v̂ + eps as in torch.optim.AdamW). `clip` is
 * what `gradientNorm` wrote: the gradient is scaled by its coefficient, and nothing changes if it is not finite.
 * `hyper` is a vector that holds `hyperAt(…)`.
 */
export function adamw(chunk: AdamChunk, clip: Tensor, hyper: Tensor): void {
  const n = vec4sOf(chunk.values);
  for (const t of [chunk.gradients, chunk.m, chunk.v]) {
    if (vec4sOf(t) !== n) throw new Error(`AdamW: chunks of ${t.rows * t.stride} and ${n * 4} numbers`);
  }
  if (chunk.decayCount % 4 || chunk.decayCount > n * 4)
    throw new Error(`AdamW: decayCount ${chunk.decayCount} of ${n * 4}`);
  if (n === 0) return;
  launch(
    kernel('adamw', adamwSource),
    [chunk.gradients, clip, hyper, chunk.values, chunk.m, chunk.v],
    [n, chunk.decayCount / 4],
    grid(Math.ceil(n / 256)),
  );
}
