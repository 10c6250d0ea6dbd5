import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { swiglu } from '../../src/gpu/ops/swiglu.ts';
import { Tape } from '../../src/gpu/tape.ts';
import { dot, finiteDifference } from '../reference/finite_difference.ts';
import { swigluGradOf, swigluOf } from '../../src/self_test/reference/swiglu.ts';
import { assertClose, closeAfterTests, compute, differentiate, matrix, openForTests, seeded } from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

test('result and gradient equal the float64 reference at odd sizes', async () => {
  const random = seeded(51);
  for (const [rows, width] of [
    [1, 4],
    [3, 8],
    [7, 12],
    [9, 36],
    [33, 108],
    [129, 4],
  ]) {
    const gateUp = random.normals(rows * 2 * width, 2);
    const dy = random.normals(rows * width);
    const x = matrix(gateUp, 2 * width);
    const got = await differentiate((tape) => swiglu(tape, x), matrix(dy, width), [x]);
    assertClose(got.y, swigluOf(gateUp, width), `${rows} × ${width}`, 1e-6);
    assertClose(got.gradients[0], swigluGradOf(gateUp, width, dy), `${rows} × ${width}: gradient`, 1e-6);
  }
});

test('gates of ±100 and ±1e30 saturate without NaN', async () => {
  const gateUp = [-1e30, -100, 100, 1e30, 2, 2, 2, 2];
  const x = matrix(gateUp, 8);
  const got = await differentiate((tape) => swiglu(tape, x), matrix([1, 1, 1, 1], 4), [x]);
  assertClose(got.y, [0, 0, 200, 2e30], 'result', 1e-6);
  assertClose(got.gradients[0], [0, 0, 2, 2, 0, 0, 100, 1e30], 'gradient', 1e-6);
});

test('a width that is no multiple of 4 is refused', async () => {
  const x = matrix(new Float32Array(12), 12);
  await compute(() => assert.throws(() => swiglu(new Tape(false), x), /width 6 is not a multiple of 4/), [x]);
});

test('the reference’s gradient is its finite difference', () => {
  const random = seeded(52);
  const [gateUp, dy] = [random.normals(24, 2), random.normals(12)];
  assertClose(
    finiteDifference((x) => dot(dy, swigluOf(x, 4)), gateUp),
    swigluGradOf(gateUp, 4, dy),
    'gradient',
    1e-8,
  );
});

test.run();
