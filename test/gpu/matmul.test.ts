import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { matmul, type Store } from '../../src/gpu/ops/matmul.ts';
import type { Tensor } from '../../src/gpu/tensor.ts';
import { finiteDifference } from '../reference/finite_difference.ts';
import { erf, gelu, geluGrad } from '../../src/self_test/reference/matmul.ts';
import { assertClose, closeAfterTests, compute, matrix, onEachVariant, openForTests, padded, seeded, withPadding } from './device.ts';
import { check, junk, MODES, operands } from './products.ts';

process.env.RLHF_TEST_FORMS ??= 'own'; // matmul_memory.test.ts has the others
test.before(openForTests);
test.after(closeAfterTests);

/** M, N, K: each of the awkward sizes as each of the three, more rows than one tile and fewer than the smallest. */
const SIZES = [
  [1, 1, 1],
  [1, 33, 43],
  [3, 7, 9],
  [7, 129, 8],
  [8, 3, 31],
  [9, 65, 7],
  [16, 31, 33],
  [17, 8, 1],
  [31, 9, 129],
  [33, 1, 65],
  [43, 33, 3],
  [65, 43, 16],
  [129, 31, 64],
  [200, 65, 17],
  [40, 36, 136],
  [33, 72, 256],
] as const;

for (const mode of MODES) {
  test(`${mode}: every store in use equals the float64 reference at odd sizes`, () =>
    onEachVariant(async (variant) => {
      const random = seeded(11);
      const checks: { c: Tensor; expected: Float64Array; cols: number; message: string }[] = [];
      const launches: (() => void)[] = [];
      const expectAt = (c: Tensor, cols: number, message: string, expected: Float64Array): void =>
        void checks.push({ c, cols, message, expected });
      for (const size of SIZES) {
        const [m, n] = size;
        const label = `${variant}, ${mode} ${size.join('×')}`;
        const bias = random.normals(n);
        const residual = random.normals(m * n);
        // `f` gives the result from the product and what C held before, `u` what a preactivation ends as.
        const add = (
          store: Store,
          message: string,
          f: (p: number, i: number, c: number) => number,
          u?: { tensor: Tensor; f: (p: number, i: number) => number } | { tensor: Tensor; of: (b: Float32Array) => void; expected: Float64Array },
        ): void => {
          const o = operands(mode, size, random);
          const c = store.kind === 'add' || store.kind === 'gelu_grad_more' ? o.C : junk(o.C);
          launches.push(() => matmul(mode, o.A, o.B, c, store));
          const result = o.product.map((p, i) => f(p, i, o.c0[i]));
          expectAt(c, n, `${label} ${message}`, result);
          if (u && 'of' in u) {
            u.of(o.b);
            expectAt(u.tensor, 1, `${label} ${message}: sums`, u.expected);
          } else if (u) expectAt(u.tensor, n, `${label} ${message}: preactivation`, o.product.map(u.f));
        };
        // The small tiles for few rows share the stores' text with the large one: one store each shows them right.
        add({ kind: 'plain' }, 'plain', (p) => p);
        // Weight gradients: no other store is ever asked for.
        if (mode === 'tn') {
          add({ kind: 'add' }, 'add', (p, _, c) => c + p);
          const before = random.normals(n);
          const columns = padded(before);
          const sums = Float64Array.from({ length: columns.rows }, (_, j) => before[j] ?? 0);
          add({ kind: 'add', columns }, 'add, with column sums', (p, _, c) => c + p, {
            tensor: columns,
            of: (b) => b.forEach((x, i) => (sums[i % n] += x)),
            expected: sums,
          });
        }
        if (m <= 16 || mode === 'tn') continue;
        add({ kind: 'plain', bias: padded(bias) }, 'bias', (p, i) => p + bias[i % n]);
        add({ kind: 'residual', residual: matrix(residual, n) }, 'residual', (p, i) => p + residual[i]);
        add(
          { kind: 'residual', bias: padded(bias), residual: matrix(residual, n) },
          'bias and residual',
          (p, i) => p + bias[i % n] + residual[i],
        );
        add({ kind: 'add' }, 'add', (p, _, c) => c + p);
        add({ kind: 'add', scale: 0.25 }, 'scaled add', (p, _, c) => c + 0.25 * p);
        // Low-rank updates of a GELU MLP: forward with out_in weights, backward with them transposed.
        const more = { act: 'tanh', scale: 0.25 } as const;
        if (mode === 'nt') {
          const preactivation = matrix(residual, n);
          const sum = (p: number, i: number): number => residual[i] + 0.25 * p;
          add({ kind: 'gelu_more', preactivation, ...more }, 'gelu_more', (p, i) => gelu(sum(p, i), 'tanh'), {
            tensor: preactivation,
            f: sum,
          });
        }
        if (mode === 'nn') {
          add(
            { kind: 'gelu_grad_more', preactivation: matrix(residual, n), ...more },
            'gelu_grad_more',
            (p, i, c) => (c + 0.25 * p) * geluGrad(residual[i], 'tanh'),
          );
        }
        for (const act of ['tanh', 'erf'] as const) {
          const preactivation = junk(matrix(residual, n));
          add(
            { kind: 'gelu', act, bias: padded(bias), preactivation },
            `gelu ${act}`,
            (p, i) => gelu(p + bias[i % n], act),
            { tensor: preactivation, f: (p, i) => p + bias[i % n] },
          );
          add({ kind: 'gelu_alone', act, bias: padded(bias) }, `gelu_alone ${act}`, (p, i) => gelu(p + bias[i % n], act));
          add(
            { kind: 'gelu_grad', act, preactivation: matrix(residual, n) },
            `gelu_grad ${act}`,
            (p, i) => p * geluGrad(residual[i], act),
          );
        }
      }
      const results = await compute(
        () => launches.forEach((launch) => launch()),
        checks.map(({ c }) => withPadding(c)),
      );
      results.forEach((values, i) => check(values, checks[i].expected, checks[i].cols, checks[i].message));
    }));
}

test('the reference’s GELU derivatives are its finite differences, and erf has its known values', () => {
  const xs = [-40, -6, -3.1, -1, -0.2, 0, 0.7, 2.9, 3.3, 12];
  for (const act of ['tanh', 'erf'] as const) {
    for (const x of xs)
      assertClose(
        finiteDifference(([y]) => gelu(y, act), [x]),
        [geluGrad(x, act)],
        `${act} at ${x}`,
        1e-8,
        1e-9,
      );
  }
  assertClose(
    [erf(0.5), erf(1), erf(2), erf(3.5), erf(-1)],
    [0.5204998778130465, 0.8427007929497149, 0.9953222650189527, 0.9999992569016276, -0.8427007929497149],
    'erf',
    1e-12,
  );
});

test('GELU of large numbers is 0 or the number itself, with no infinity on the way', () =>
  onEachVariant(async (variant) => {
    const x = [-1e18, -1e4, -30, -9, 9, 30, 1e4, 1e18, 0];
    // x as the product of a column of 18 rows (more than the small tiles take) with the number 1.
    const column = [...x, ...x];
    for (const act of ['tanh', 'erf'] as const) {
      const [A, B, ones, U, C, G] = [
        matrix(column, 1),
        matrix([1], 1),
        matrix(
          column.map(() => 1),
          1,
        ),
        ...[0, 1, 2].map(() => matrix(column, 1)),
      ];
      const [got, slope] = await compute(() => {
        matmul('nn', A, B, C, { kind: 'gelu', act, preactivation: U });
        matmul('nn', ones, B, G, { kind: 'gelu_grad', act, preactivation: U });
      }, [C, G]);
      column.forEach((value, i) => {
        if (value !== 0)
          assertClose([got[i]], [value > 0 ? value : 0], `${variant}, gelu ${act} of ${value}`, 1e-6, 1e-12);
        assertClose(
          [slope[i]],
          [value > 0 ? 1 : value < 0 ? 0 : 0.5],
          `${variant}, slope ${act} at ${value}`,
          1e-6,
          1e-12,
        );
      });
    }
  }));

test('the same product twice has the same bits', () =>
  onEachVariant(async () => {
    const random = seeded(17);
    for (const mode of MODES) {
      const o = operands(mode, [129, 65, 257], random);
      const first = await compute(() => matmul(mode, o.A, o.B, o.C), [o.C]);
      assert.equal(await compute(() => matmul(mode, o.A, o.B, o.C), [o.C]), first);
    }
  }));

test('shapes that do not fit are refused', async () => {
  const [a, b, c] = [matrix(new Float32Array(12), 4), matrix(new Float32Array(20), 4), matrix(new Float32Array(15), 5)];
  assert.throws(() => matmul('nn', a, b, c), /matmul nn: \[3,4\] · \[5,4\] → \[3,5\]/);
  assert.throws(() => matmul('tn', a, b, c), /matmul tn/);
  await compute(() => matmul('nt', a, b, c), [c]);
});

test.run();
