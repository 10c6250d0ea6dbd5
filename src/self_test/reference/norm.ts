/** Inputs of a norm over x [N,C]. */
export interface NormInput {
  x: ArrayLike<number>;
  cols: number;
  kind: 'layer' | 'rms';
  weight: ArrayLike<number>;
  bias?: ArrayLike<number>;
  eps: number;
}

function statsOf({ x, cols, kind, eps }: NormInput, row: number): { mean: number; scale: number } {
  let mean = 0;
  if (kind === 'layer') for (let c = 0; c < cols; c++) mean += x[row * cols + c] / cols;
  let variance = 0;
  for (let c = 0; c < cols; c++) variance += (x[row * cols + c] - mean) ** 2 / cols;
  return { mean, scale: 1 / Math.sqrt(variance + eps) };
}

/** y [N,C]: layer norm (Ba et al. 2016) or RMS norm (Zhang and Sennrich 2019) in float64. */
export function normOf(input: NormInput): Float64Array {
  const { x, cols, weight, bias } = input;
  return Float64Array.from(x, (value, i) => {
    const { mean, scale } = statsOf(input, Math.floor(i / cols));
    return (value - mean) * scale * weight[i % cols] + (bias?.[i % cols] ?? 0);
  });
}

/** Gradients of Σ dy·y with respect to x, weight and bias. */
export function normGradOf(input: NormInput, dy: ArrayLike<number>) {
  const { x, cols, kind, weight } = input;
  const dx = new Float64Array(x.length);
  const dWeight = new Float64Array(cols);
  const dBias = new Float64Array(cols);
  for (let row = 0; row * cols < x.length; row++) {
    const { mean, scale } = statsOf(input, row);
    let meanU = 0;
    let meanUx = 0;
    for (let c = 0; c < cols; c++) {
      const i = row * cols + c;
      const normed = (x[i] - mean) * scale;
      dWeight[c] += dy[i] * normed;
      dBias[c] += dy[i];
      meanU += (dy[i] * weight[c]) / cols;
      meanUx += (dy[i] * weight[c] * normed) / cols;
    }
    if (kind === 'rms') meanU = 0;
    for (let c = 0; c < cols; c++) {
      const i = row * cols + c;
      dx[i] = scale * (dy[i] * weight[c] - meanU - (x[i] - mean) * scale * meanUx);
    }
  }
  return { dx, dWeight, dBias };
}
