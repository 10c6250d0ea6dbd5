import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { columnSum } from '../../src/gpu/ops/column_sum.ts';
import { record } from '../../src/gpu/program.ts';
import { Tensor } from '../../src/gpu/tensor.ts';
import { assertClose, closeAfterTests, column, compute, matrix, openForTests, padded, seeded } from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

for (const kind of ['plain', 'normed', 'scaled'] as const) {
  test(`${kind}: adds the column sums at odd sizes, over more and fewer rows than a block`, async () => {
    const random = seeded(85);
    for (const [rows, cols] of [
      [1, 1],
      [3, 7],
      [8, 9],
      [31, 33],
      [128, 4],
      [129, 65],
      [257, 43],
    ]) {
      const [dy, x, scale, before] = [
        random.normals(rows * cols),
        random.normals(rows * cols),
        random.normals(rows),
        random.normals(cols),
      ];
      const stats = random.normals(rows * 2);
      const grad = padded(before);
      const terms =
        kind === 'plain'
          ? kind
          : kind === 'scaled'
            ? { scale: column(scale) }
            : { x: matrix(x, cols), stats: matrix(stats, 2, 'f32', 2) };
      const expected = Float64Array.from({ length: grad.rows }, (_, c) => (c < cols ? before[c] : 0));
      dy.forEach((d, i) => {
        const r = Math.floor(i / cols);
        expected[i % cols] +=
          d * (kind === 'plain' ? 1 : kind === 'scaled' ? scale[r] : (x[i] - stats[2 * r]) * stats[2 * r + 1]);
      });
      const DY = matrix(dy, cols);
      const [got] = await compute(() => columnSum(grad, DY, terms), [grad]);
      assertClose(got, expected, `${rows} × ${cols}`, 2e-6);
      assert.ok(
        got.subarray(cols).every((v) => v === 0),
        'padding stays zero',
      );
    }
  });
}

test('columns of a wider matrix are summed as if they stood alone', async () => {
  const random = seeded(87);
  const [rows, cols, stride] = [131, 9, 40];
  const all = random.normals(rows * stride);
  for (let r = 0; r < rows; r++) all.fill(0, r * stride + cols, r * stride + 12).fill(NaN, r * stride + 12, (r + 1) * stride);
  const whole = matrix(all, stride);
  const grad = padded(new Float32Array(cols));
  const [got] = await compute(() => columnSum(grad, new Tensor(whole.buffer, rows, cols, stride), 'plain'), [grad]);
  const expected = Float64Array.from({ length: 12 }, (_, c) => (c < cols ? all.reduce((sum, x, i) => (i % stride === c ? sum + x : sum), 0) : 0));
  assertClose(got, expected, 'sums', 2e-6);
  const x = matrix(new Float32Array(rows * cols), cols);
  const stats = matrix(new Float32Array(rows * 2), 2, 'f32', 2);
  assert.throws(() => record(() => columnSum(grad, new Tensor(whole.buffer, rows, cols, stride), { x, stats })), /strides 12 and 40/);
});

test('a sum repeats bit for bit', async () => {
  const dy = matrix(seeded(86).normals(300 * 10), 10);
  const sums = [padded(new Float32Array(10)), padded(new Float32Array(10))];
  const [a, b] = await compute(() => sums.forEach((s) => columnSum(s, dy, 'plain')), sums);
  assert.equal(a, b);
});

test.run();
