import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { norm } from '../../src/gpu/ops/norm.ts';
import type { Tape } from '../../src/gpu/tape.ts';
import { readFloats, type Tensor } from '../../src/gpu/tensor.ts';
import { dot, finiteDifference } from '../reference/finite_difference.ts';
import { normGradOf, type NormInput, normOf } from '../../src/self_test/reference/norm.ts';
import {
  assertClose,
  closeAfterTests,
  differentiate,
  matrix,
  onEachVariant,
  openForTests,
  padded,
  parameter,
  seeded,
} from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

const SIZES = [
  [1, 1],
  [1, 43],
  [3, 7],
  [7, 8],
  [8, 9],
  [9, 31],
  [31, 33],
  [33, 3],
  [65, 65],
  [129, 129],
  [300, 4],
  [3, 2113], // a workgroup a row on GPUs
] as const;
const EPS = 1e-5;

for (const kind of ['layer', 'rms'] as const) {
  const setUp = (rows: number, cols: number, seed: number, mean = 0) => {
    const random = seeded(seed);
    const x = random.normals(rows * cols).map((v) => v + mean);
    const input: NormInput = {
      x,
      cols,
      kind,
      eps: EPS,
      weight: random.normals(cols),
      bias: kind === 'layer' ? random.normals(cols) : undefined,
    };
    return { input, dy: random.normals(rows * cols), random };
  };

  const run = async ({ input, dy }: { input: NormInput; dy: Float32Array }, arrived?: Float32Array) => {
    const { x, cols } = input;
    const X = matrix(x, cols);
    const weight = parameter('weight', padded(input.weight));
    const bias = input.bias && parameter('bias', padded(input.bias));
    const op = (tape: Tape): Tensor => norm(tape, X, kind, weight, bias, EPS);
    const { y, gradients } = await differentiate(op, matrix(dy, cols), [X], arrived && [matrix(arrived, cols)]);
    const dWeight = (await readFloats(weight.grad)).subarray(0, cols);
    return { y, dx: gradients[0], dWeight, dBias: bias && (await readFloats(bias.grad)).subarray(0, cols) };
  };

  test(`${kind}: result and gradients equal the float64 reference at odd sizes`, () =>
    onEachVariant(async (variant) => {
      for (const [i, [rows, cols]] of SIZES.entries()) {
        const given = setUp(rows, cols, 20 + i);
        const arrived = i % 2 ? given.random.normals(rows * cols) : undefined;
        const got = await run(given, arrived);
        const expected = normGradOf(given.input, given.dy);
        const label = `${variant}, ${rows} × ${cols}`;
        assertClose(got.y, normOf(given.input), label, 2e-6, 1e-7);
        // One column: the gradient is a difference of equal numbers times 1/√eps.
        assertClose(
          got.dx,
          expected.dx.map((d, j) => d + (arrived?.[j] ?? 0)),
          `${label}: dx`,
          5e-6,
          cols === 1 ? 1e-4 : 2e-6,
        );
        assertClose(got.dWeight, expected.dWeight, `${label}: weight`, 3e-6, 1e-6);
        if (got.dBias) assertClose(got.dBias, expected.dBias, `${label}: bias`, 2e-6, 1e-6);
      }
    }));

  test(`${kind}: rows far from zero lose no more than float32 must`, () =>
    onEachVariant(async (variant) => {
      const given = setUp(5, 65, 40, 1000);
      const got = await run(given);
      // x itself has 24 bits: relative to its spread of 1 that is 1000 · 2⁻²⁴ = 6e-5.
      assertClose(got.y, normOf(given.input), variant, 1e-4);
      assertClose(got.dx, normGradOf(given.input, given.dy).dx, `${variant}: dx`, 3e-4);
    }));

  test(`${kind}: a row has the same bits beside any rows, and a run repeats`, () =>
    onEachVariant(async (variant) => {
      const [rows, cols] = [17, 43];
      const given = setUp(rows, cols, 41);
      const all = await run(given);
      assert.equal(await run(given), all, 'repeats');
      for (const row of [0, 7, 8, 16]) {
        const part = (v: ArrayLike<number>): Float32Array => Float32Array.from(v).slice(row * cols, (row + 1) * cols);
        const alone = await run({ input: { ...given.input, x: part(given.input.x) }, dy: part(given.dy) });
        assert.equal(alone.y, part(all.y), `${variant}, row ${row}`);
        assert.equal(alone.dx, part(all.dx), `${variant}, row ${row}: dx`);
      }
    }));

  test(`${kind}: the reference’s gradients are its finite differences`, () => {
    const { input, dy } = setUp(2, 7, 42);
    const { dx, dWeight, dBias } = normGradOf(input, dy);
    assertClose(
      finiteDifference((x) => dot(dy, normOf({ ...input, x })), input.x),
      dx,
      'dx',
      1e-8,
    );
    assertClose(
      finiteDifference((weight) => dot(dy, normOf({ ...input, weight })), input.weight),
      dWeight,
      'weight',
      1e-8,
    );
    if (input.bias)
      assertClose(
        finiteDifference((bias) => dot(dy, normOf({ ...input, bias })), input.bias),
        dBias,
        'bias',
        1e-8,
      );
  });
}

test.run();
