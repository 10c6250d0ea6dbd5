/** Rows `ids` of a table [V,C] (plus rows `at` of another). */
export function embeddingOf(
  ids: ArrayLike<number>,
  table: ArrayLike<number>,
  cols: number,
  learned?: { at: ArrayLike<number>; table: ArrayLike<number> },
): Float64Array {
  return Float64Array.from({ length: ids.length * cols }, (_, i) => {
    const n = Math.floor(i / cols);
    return table[ids[n] * cols + (i % cols)] + (learned ? learned.table[learned.at[n] * cols + (i % cols)] : 0);
  });
}

/** Σ of the rows of dx [N,C] by their id: the gradient of a table of `size` rows. Rows from `count` on do not. */
export function embeddingGradOf(
  ids: ArrayLike<number>,
  dx: ArrayLike<number>,
  cols: number,
  size: number,
  count = ids.length,
): Float64Array {
  const gradient = new Float64Array(size * cols);
  for (let n = 0; n < count; n++) for (let c = 0; c < cols; c++) gradient[ids[n] * cols + c] += dx[n * cols + c];
  return gradient;
}
