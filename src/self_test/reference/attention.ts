import type { HeadShape } from '../../gpu/ops/attention.ts';

/** A run of tokens that attend to one another. */
export interface Span {
  first: number;
  length: number;
}

/** Softmax of query `t`'s scores against the keys up to it, for head `h` of a row. */
function probabilities(
  qkv: ArrayLike<number>,
  cols: number,
  { heads, kvHeads, headDim }: HeadShape,
  row: Span,
  t: number,
  h: number,
) {
  const kcol = (heads + Math.floor(h / (heads / kvHeads))) * headDim;
  const scores: number[] = [];
  for (let j = 0; j <= t; j++) {
    let dot = 0;
    for (let d = 0; d < headDim; d++)
      dot += qkv[(row.first + t) * cols + h * headDim + d] * qkv[(row.first + j) * cols + kcol + d];
    scores.push(dot / Math.sqrt(headDim));
  }
  const top = Math.max(...scores);
  const sum = scores.reduce((total, s) => total + Math.exp(s - top), 0);
  return { kcol, vcol: kcol + kvHeads * headDim, p: scores.map((s) => Math.exp(s - top) / sum) };
}

/** Causal attention within each row of qkv [N, (H + 2·kv)·D], in float64: o [N, H·D] (Vaswani et al. 2017). */
export function attentionOf(qkv: ArrayLike<number>, shape: HeadShape, rows: readonly Span[]): Float64Array {
  const { heads, kvHeads, headDim } = shape;
  const cols = (heads + 2 * kvHeads) * headDim;
  const width = heads * headDim;
  const o = new Float64Array((qkv.length / cols) * width);
  for (const row of rows) {
    for (let t = 0; t < row.length; t++) {
      for (let h = 0; h < heads; h++) {
        const { vcol, p } = probabilities(qkv, cols, shape, row, t, h);
        for (let d = 0; d < headDim; d++) {
          let sum = 0;
          for (let j = 0; j <= t; j++) sum += p[j] * qkv[(row.first + j) * cols + vcol + d];
          o[(row.first + t) * width + h * headDim + d] = sum;
        }
      }
    }
  }
  return o;
}

/** Gradient of Σ dO·o with respect to qkv. */
export function attentionGradOf(
  qkv: ArrayLike<number>,
  shape: HeadShape,
  rows: readonly Span[],
  dO: ArrayLike<number>,
): Float64Array {
  const { heads, kvHeads, headDim } = shape;
  const cols = (heads + 2 * kvHeads) * headDim;
  const width = heads * headDim;
  const gradient = new Float64Array(qkv.length);
  for (const row of rows) {
    for (let t = 0; t < row.length; t++) {
      for (let h = 0; h < heads; h++) {
        const { kcol, vcol, p } = probabilities(qkv, cols, shape, row, t, h);
        const query = (row.first + t) * cols + h * headDim;
        const out = (row.first + t) * width + h * headDim;
        const dp = p.map((_, j) => {
          let sum = 0;
          for (let d = 0; d < headDim; d++) sum += dO[out + d] * qkv[(row.first + j) * cols + vcol + d];
          return sum;
        });
        const mean = p.reduce((sum, x, j) => sum + x * dp[j], 0);
        for (let j = 0; j <= t; j++) {
          const ds = (p[j] * (dp[j] - mean)) / Math.sqrt(headDim);
          const token = (row.first + j) * cols;
          for (let d = 0; d < headDim; d++) {
            gradient[token + vcol + d] += p[j] * dO[out + d];
            gradient[query + d] += ds * qkv[token + kcol + d];
            gradient[token + kcol + d] += ds * qkv[query + d];
          }
        }
      }
    }
  }
  return gradient;
}
