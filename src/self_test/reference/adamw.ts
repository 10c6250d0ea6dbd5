import type { AdamSettings } from '../../gpu/ops/adamw.ts';

export const l2Norm = (...chunks: ArrayLike<number>[]): number =>
  Math.sqrt(chunks.reduce((sum, c) => sum + Array.from(c).reduce((s, x) => s + x * x, 0), 0));

/** Float64 AdamW of one chunk, in place; the first `decayCount` numbers are decayed. */
export function adamwStep(
  chunk: { values: number[]; m: number[]; v: number[] },
  gradients: ArrayLike<number>,
  step: number,
  { lr, beta1, beta2, eps, weightDecay }: AdamSettings,
  decayCount: number,
  maxNorm?: number,
): void {
  const scale = maxNorm === undefined ? 1 : Math.min(1, maxNorm / (l2Norm(gradients) + 1e-6));
  for (let i = 0; i < chunk.values.length; i++) {
    const g = gradients[i] * scale;
    if (i < decayCount) chunk.values[i] *= 1 - lr * weightDecay;
    chunk.m[i] = beta1 * chunk.m[i] + (1 - beta1) * g;
    chunk.v[i] = beta2 * chunk.v[i] + (1 - beta2) * g * g;
    chunk.values[i] -= (lr * chunk.m[i]) / (1 - beta1 ** step) / (Math.sqrt(chunk.v[i] / (1 - beta2 ** step)) + eps);
  }
}
