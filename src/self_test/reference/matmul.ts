import type { Mode } from '../../gpu/ops/matmul.ts';

/** op(A)·op(B) [M,N] in float64, for dense A and B laid out as `mode` says. */
export function matmulOf(
  mode: Mode,
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  m: number,
  n: number,
  k: number,
): Float64Array {
  const c = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let x = 0; x < k; x++)
        sum += (mode === 'tn' ? a[x * m + i] : a[i * k + x]) * (mode === 'nt' ? b[j * k + x] : b[x * n + j]);
      c[i * n + j] = sum;
    }
  }
  return c;
}

/** The error function: its Taylor series, and for large arguments the continued fraction of its complement. */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (a > 3) {
    let f = 0;
    for (let i = 60; i > 0; i--) f = i / 2 / (a + f);
    return Math.sign(x) * (1 - Math.exp(-a * a) / ((a + f) * Math.sqrt(Math.PI)));
  }
  let term = x;
  let sum = x;
  for (let i = 1; i < 80; i++) {
    term *= (-x * x) / i;
    sum += term / (2 * i + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}

const inner = (x: number): number => Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3);

/** GELU, exact or in its tanh form (Hendrycks and Gimpel 2016). */
export function gelu(x: number, act: 'tanh' | 'erf'): number {
  return 0.5 * x * (1 + (act === 'tanh' ? Math.tanh(inner(x)) : erf(x / Math.SQRT2)));
}

/** Derivative of `gelu`. */
export function geluGrad(x: number, act: 'tanh' | 'erf'): number {
  if (act === 'erf') return 0.5 * (1 + erf(x / Math.SQRT2)) + (x * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI);
  const t = Math.tanh(inner(x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * x * x);
}
