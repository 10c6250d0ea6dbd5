import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { likelihoodGradient, weightedSum } from '../../src/gpu/ops/sums.ts';
import { vector } from '../../src/gpu/tensor.ts';
import { assertClose, closeAfterTests, compute, matrix, openForTests, seeded } from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

test('both weighted sums are added up over passes, as the float64 reference', async () => {
  const random = seeded(95);
  for (const M of [1, 3, 31, 64, 65, 129, 1000]) {
    const [stats, weights] = [random.normals(M * 4), random.normals(M * 2)];
    const totals = matrix(new Float32Array(8).fill(0.5), 4);
    const [X, W] = [matrix(stats, 4), matrix(weights, 2, 'f32', 2)];
    const [got] = await compute(() => weightedSum(X, W, totals), [totals], 2);
    const expected = new Array(8).fill(0.5);
    stats.forEach((x, i) => {
      expected[i % 4] += 2 * x * weights[2 * Math.floor(i / 4)];
      expected[4 + (i % 4)] += 2 * x * weights[2 * Math.floor(i / 4) + 1];
    });
    assertClose(got, expected, `${M} picks`, 2e-6, 1e-6);
  }
});

test('entries of weight 0 are left out, even where they are not finite', async () => {
  const totals = matrix(new Float32Array(8), 4);
  const X = matrix([NaN, Infinity, 1, 2, 3, 4, 5, 6, -Infinity, NaN, NaN, NaN], 4);
  const W = matrix([0, 0, 0.5, 2, 0, 0], 2, 'f32', 2);
  const [got] = await compute(() => weightedSum(X, W, totals), [totals]);
  assert.equal([...got], [1.5, 2, 2.5, 3, 6, 8, 10, 12]);
});

test('the gradient of the weighted negative log-likelihood is minus both weights', async () => {
  for (const M of [1, 63, 64, 65]) {
    const weights = seeded(M).normals(M * 2);
    const d = vector(M);
    const W = matrix(weights, 2, 'f32', 2);
    const [got] = await compute(() => likelihoodGradient(W, d), [d]);
    assert.equal(
      [...got],
      Array.from({ length: M }, (_, m) => -Math.fround(weights[2 * m] + weights[2 * m + 1])),
    );
  }
});

test.run();
