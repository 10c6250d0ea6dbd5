/** Central differences of `f` at `x` in the directions `at` (all of them where missing), in float64. */
export function finiteDifference(
  f: (x: Float64Array) => number,
  x: ArrayLike<number>,
  at?: readonly number[],
  h = 1e-5,
): number[] {
  return (at ?? [...Array(x.length).keys()]).map((i) => {
    const value = (step: number): number => {
      const moved = Float64Array.from(x);
      moved[i] += step;
      return f(moved);
    };
    return (value(h) - value(-h)) / (2 * h);
  });
}

/** Σ a·b. */
export const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Array.from(a).reduce((sum, x, i) => sum + x * b[i], 0);
