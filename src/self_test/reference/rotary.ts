import type { HeadShape } from '../../gpu/ops/attention.ts';

/**
 * Queries and keys of qkv [N, (H + 2·kv)·D] turned by `position · theta^(−2i/D)`, half-split (Su et al. 2021),
 * values as they are; `sign` −1 turns back. Angles in float64, not from a table.
 */
export function rotaryOf(
  qkv: ArrayLike<number>,
  { heads, kvHeads, headDim }: HeadShape,
  theta: number,
  positions: ArrayLike<number>,
  sign = 1,
): Float64Array {
  const cols = (heads + 2 * kvHeads) * headDim;
  const half = headDim / 2;
  const out = Float64Array.from(qkv);
  for (let n = 0; n < positions.length; n++) {
    for (let h = 0; h < heads + kvHeads; h++) {
      for (let i = 0; i < half; i++) {
        const angle = sign * positions[n] * theta ** ((-2 * i) / headDim);
        const at = n * cols + h * headDim + i;
        out[at] = qkv[at] * Math.cos(angle) - qkv[at + half] * Math.sin(angle);
        out[at + half] = qkv[at + half] * Math.cos(angle) + qkv[at] * Math.sin(angle);
      }
    }
  }
  return out;
}
