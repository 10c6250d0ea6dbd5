import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { gather, NONE } from '../../src/gpu/ops/gather.ts';
import { closeAfterTests, column, differentiate, matrix, openForTests, seeded } from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

for (const [rows, cols] of [
  [1, 1],
  [3, 7],
  [9, 8],
  [31, 43],
  [129, 33],
]) {
  test(`${rows} × ${cols}: the picked rows, zeros for none; the gradient goes back to them alone`, async () => {
    const random = seeded(rows);
    const x = random.normals(rows * cols);
    const picked = Array.from({ length: rows }, (_, i) => i)
      .filter((i) => i % 3 !== 1)
      .reverse();
    const index = [...picked, NONE, NONE];
    const inverse = Array.from({ length: rows }, (_, n) => (picked.includes(n) ? picked.indexOf(n) : NONE));
    const dy = random.normals(index.length * cols);
    const arrived = random.normals(rows * cols);
    const row = (values: ArrayLike<number>, i: number): number[] =>
      Array.from({ length: cols }, (_, c) => values[i * cols + c]);
    const zeros = new Array(cols).fill(0);
    const X = matrix(x, cols);
    for (const before of [undefined, arrived]) {
      const got = await differentiate(
        (tape) => gather(tape, X, column(index, 'u32'), column(inverse, 'u32')),
        matrix(dy, cols),
        [X],
        before && [matrix(before, cols)],
      );
      assert.equal(
        [...got.y],
        index.flatMap((i) => (i === NONE ? zeros : row(x, i))),
      );
      const expected = inverse.flatMap((m, n) =>
        (m === NONE ? zeros : row(dy, m)).map((d, c) => Math.fround(d + (before?.[n * cols + c] ?? 0))),
      );
      assert.equal([...got.gradients[0]], expected);
    }
  });
}

test.run();
