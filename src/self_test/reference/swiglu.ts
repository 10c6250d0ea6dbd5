const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** silu(gate)·up for gateUp [N, 2F], gates first, in float64 (Shazeer 2020). */
export function swigluOf(gateUp: ArrayLike<number>, width: number): Float64Array {
  const y = new Float64Array(gateUp.length / 2);
  for (let i = 0; i < y.length; i++) {
    const at = Math.floor(i / width) * 2 * width + (i % width);
    y[i] = gateUp[at] * sigmoid(gateUp[at]) * gateUp[at + width];
  }
  return y;
}

/** Gradient of Σ dy·y with respect to gateUp. */
export function swigluGradOf(gateUp: ArrayLike<number>, width: number, dy: ArrayLike<number>): Float64Array {
  const gradient = new Float64Array(gateUp.length);
  for (let i = 0; i < dy.length; i++) {
    const at = Math.floor(i / width) * 2 * width + (i % width);
    const s = sigmoid(gateUp[at]);
    gradient[at] = dy[i] * gateUp[at + width] * (s + gateUp[at] * s * (1 - s));
    gradient[at + width] = dy[i] * gateUp[at] * s;
  }
  return gradient;
}
