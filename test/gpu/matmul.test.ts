import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { matmul, type Mode, type Store } from '../../src/gpu/ops/matmul.ts';
import { splitFor, TILES, withTile } from '../../src/gpu/ops/matmul_forms.ts';
import { withSubgroup } from '../../src/gpu/device.ts';
import { type Tensor, upload } from '../../src/gpu/tensor.ts';
import { finiteDifference } from '../reference/finite_difference.ts';
import { erf, gelu, geluGrad, matmulOf } from '../../src/self_test/reference/matmul.ts';
import {
  assertClose,
  closeAfterTests,
  compute,
  matrix,
  onEachVariant,
  openForTests,
  padded,
  seeded,
  withPadding,
} from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

const MODES: readonly Mode[] = ['nn', 'nt', 'tn'];
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

/** A, B and C of one product, C full of junk (or zeros in its padding where the store adds to it). */
function operands(mode: Mode, [m, n, k]: readonly [number, number, number], random: ReturnType<typeof seeded>) {
  const a = random.normals(m * k);
  const b = random.normals(k * n);
  const c0 = random.normals(m * n);
  return {
    a,
    b,
    c0,
    A: matrix(a, mode === 'tn' ? m : k),
    B: matrix(b, mode === 'nt' ? k : n),
    C: matrix(c0, n),
    product: matmulOf(mode, a, b, m, n, k),
  };
}

/** Checks rows of `cols` numbers read with their padding: the numbers, and zeros behind them. */
function check(values: Float32Array, expected: Float64Array, cols: number, message: string): void {
  const stride = values.length / (expected.length / cols);
  const real = values.filter((_, i) => i % stride < cols);
  assertClose(real, expected, message, 2e-6);
  assert.ok(
    values.every((x, i) => i % stride < cols || x === 0),
    `${message}: padding columns are zero`,
  );
}

/** Junk in the padding columns too: a store must replace it. */
const junk = (t: Tensor): Tensor => {
  upload(withPadding(t), new Float32Array(t.rows * t.stride).fill(7));
  return t;
};

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

test('a row’s product has the same bits in every batch: alone, among 8, 16, 17, 33 or 130 rows, first or last', () =>
  onEachVariant(async (variant) => {
    const random = seeded(13);
    const [n, k] = [43, 172];
    const row = random.normals(k);
    const b = random.normals(n * k);
    for (const mode of ['nn', 'nt'] as const) {
      const B = matrix(b, mode === 'nt' ? k : n);
      const cases = [1, 8, 16, 17, 33, 130].flatMap((m) =>
        [0, m - 1].map((at) => {
          const a = random.normals(m * k);
          a.set(row, at * k);
          return { at, A: matrix(a, k), C: matrix(new Float32Array(m * n), n) };
        }),
      );
      const results = await compute(
        () => cases.forEach(({ A, C }) => matmul(mode, A, B, C)),
        cases.map(({ C }) => C),
      );
      const rows = results.map((values, i) => [...values.subarray(cases[i].at * n, (cases[i].at + 1) * n)]);
      for (const got of rows) assert.equal(got, rows[0], `${variant}, ${mode}`);
    }
  }));

test('every tile for GPUs gives float64’s numbers, and all tiles the same bits', () =>
  withSubgroup(0, async () => {
    const random = seeded(19);
    // Edges of rows, columns and K inside the largest tile, and a second tile of each.
    const size = [141, 131, 43] as const;
    for (const mode of MODES) {
      const o = operands(mode, size, random);
      const outputs = TILES.map(() => junk(matrix(o.c0, size[1])));
      const results = await compute(
        () => TILES.forEach((tile, i) => withTile(tile, () => matmul(mode, o.A, o.B, outputs[i]))),
        outputs.map(withPadding),
      );
      results.forEach((values, i) => {
        check(values, o.product, size[1], `${mode}, tile ${TILES[i].rows}×${TILES[i].cols}`);
        assert.equal(values, results[0], `${mode}, tile ${TILES[i].rows}×${TILES[i].cols}: bits`);
      });
    }
  }));

test('weight gradients whose K is split equal float64’s, plain and added, and repeat to the bit', () =>
  withSubgroup(0, async () => {
    const random = seeded(23);
    for (const size of [[5, 7, 1024], [33, 65, 1601], [70, 130, 2047]] as const) {
      const [m, n, k] = size;
      assert.ok(splitFor('tn', m, n, k).parts > 1, `${size} is split`);
      const o = operands('tn', size, random);
      const plain = [0, 1].map(() => junk(matrix(o.c0, n)));
      const scaled = matrix(o.c0, n);
      const [first, again, sum] = await compute(() => {
        plain.forEach((c) => matmul('tn', o.A, o.B, c));
        matmul('tn', o.A, o.B, scaled, { kind: 'add', scale: 0.25 });
      }, [...plain, scaled].map(withPadding));
      check(first, o.product, n, `${size}`);
      assert.equal(again, first, `${size}: again`);
      check(sum, o.product.map((p, i) => o.c0[i] + 0.25 * p), n, `${size}: added`);
    }
  }));

test('K is split for weight gradients alone, and not where tiles fill a GPU', () => {
  for (const mode of ['nn', 'nt'] as const) assert.is(splitFor(mode, 64, 64, 1 << 20).parts, 1);
  assert.is(splitFor('tn', 4096, 4096, 8192).parts, 1);
  for (const [m, n, k] of [[768, 768, 8192], [50257, 768, 8192], [64, 64, 1024], [128, 512, 100003]]) {
    const { parts, chunk } = splitFor('tn', m, n, k);
    assert.ok(parts * chunk >= k && (parts - 1) * chunk < k, 'the parts are all of K, none is empty');
    assert.ok(parts === 1 || chunk % 16 === 0);
  }
});

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
