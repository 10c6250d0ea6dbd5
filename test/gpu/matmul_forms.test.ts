// What holds of every form of the product: which one runs, its tile, how K is split and how far apart rows lie must not show.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { withMatrix, withSubgroup } from '../../src/gpu/device.ts';
import { matmul, type Mode, type Store } from '../../src/gpu/ops/matmul.ts';
import { splitFor, type Tile, tileFor, TILES, withTile } from '../../src/gpu/ops/matmul_forms.ts';
import { subgroupMatrixForm } from '../../src/gpu/ops/matmul_subgroup_matrix.ts';
import { pad4, persistent, type Storage, Tensor, upload } from '../../src/gpu/tensor.ts';
import { type Check, close, passed, roundingOf } from '../../src/self_test/check.ts';
import { matmulChecks } from '../../src/self_test/matmul.ts';
import { matrix as stored, numbers } from '../../src/self_test/on_device.ts';
import { matmulOf } from '../../src/self_test/reference/matmul.ts';
import { closeAfterTests, compute, halfTest, matrix, onEachVariant, openForTests, padded, seeded, withPadding } from './device.ts';
import { check, junk, MODES, operands, type Size } from './products.ts';

await openForTests();
test.after(closeAfterTests);

/** Every store, for bias [N] and another matrix of C's shape; the GELU that each mode is used with first. */
const storesOf = (mode: Mode, bias: Tensor, other: Tensor): Store[] => {
  const act = mode === 'nt' ? 'erf' : 'tanh';
  return [
    { kind: 'plain' },
    { kind: 'plain', bias },
    { kind: 'residual', bias, residual: other },
    { kind: 'add', scale: 0.75 },
    { kind: 'gelu', bias, preactivation: other, act },
    { kind: 'gelu_grad', preactivation: other, act },
    { kind: 'gelu_more', preactivation: other, act, scale: 0.75 },
    { kind: 'gelu_grad_more', preactivation: other, act, scale: 0.75 },
    { kind: 'gelu_alone', bias, act },
  ];
};

const BATCHES = [1, 8, 16, 17, 33, 130];
/** N and K: all stores at one ragged size, and those whose loops differ (whole steps of K, a long and a short sum) plainly. */
const WIDTHS = [[43, 33, 9], [43, 172, 1], [36, 136, 1], [7, 3, 1], [129, 31, 1]] as const;

/** On GPUs: what a product of so many rows takes, and 64×64, as one does that is wide, for many of them. */
const tileOf = (m: number, n: number): Tile => (m > 64 ? TILES[2] : tileFor('nn', m, n));

test('a row has the same bits in every batch, from every store: alone, among 8, 16, 17, 33 or 130 rows, first or last', () =>
  onEachVariant(async (variant) => {
    const random = seeded(13);
    for (const [n, k, stores] of WIDTHS) {
      assert.ok(new Set(BATCHES.map((m) => tileOf(m, n))).size > 2, 'several tiles are compared');
      const bias = padded(random.normals(n));
      for (const mode of ['nn', 'nt'] as const) {
        const [row, before, beside] = [random.normals(k), random.normals(n), random.normals(n)];
        const B = matrix(random.normals(n * k), mode === 'nt' ? k : n);
        const around = (own: Float32Array, m: number, at: number): Tensor => {
          const all = random.normals(m * own.length);
          all.set(own, at * own.length);
          return matrix(all, own.length);
        };
        const cases = Array.from({ length: stores }, (_, s) => BATCHES.flatMap((m) => [0, m - 1].map((at) => {
          const other = around(beside, m, at);
          return { at, tile: tileOf(m, n), A: around(row, m, at), C: around(before, m, at), other, store: storesOf(mode, bias, other)[s] };
        })));
        const results = await compute(
          () => cases.flat().forEach(({ tile, A, C, store }) => withTile(tile, () => matmul(mode, A, B, C, store))),
          cases.flat().flatMap(({ C, other }) => [C, other]),
        );
        cases.forEach((same, s) => {
          const rows = same.map(({ at }, i) => [0, 1].map((which) => {
            const values = results[2 * (s * same.length + i) + which];
            return [...values.subarray(at * n, (at + 1) * n)];
          }));
          assert.not.equal(rows[0][0], [...before], 'something was stored');
          for (const got of rows) assert.equal(got, rows[0], `${variant}, ${mode} ${n}×${k}, ${same[0].store.kind}`);
        });
      }
    }
  }));

test('every tile for GPUs gives float64’s numbers, from every store', () =>
  withSubgroup(0, async () => {
    for (const tile of TILES) {
      let checks: Promise<Check[]> | undefined;
      withTile(tile, () => (checks = matmulChecks('f32'))); // recorded at once, awaited later
      for (const one of await checks!) assert.ok(passed(one), `tile ${tile.rows}×${tile.cols}, ${one.what}: ${one.error}`);
    }
  }));

test('all tiles for GPUs give the same bits, from every store, at ragged sizes', () =>
  withSubgroup(0, async () => {
    const random = seeded(19);
    // Edges of rows, columns and K inside the largest tile and a second tile of each; less than a tile; whole tiles.
    const sizes: readonly (readonly [Size, all: boolean])[] =
      [[[141, 131, 43], true], [[17, 5, 16], true], [[1, 1, 1], false], [[130, 67, 257], false], [[128, 128, 32], false]];
    for (const mode of MODES) {
      for (const [size, all] of sizes) {
        const [m, n] = size;
        const o = operands(mode, size, random);
        const bias = padded(random.normals(n));
        const beside = random.normals(m * n);
        const count = !all ? 1 : mode === 'tn' ? 4 : 9; // weight gradients have no other store than the first four
        for (let s = 0; s < count; s++) {
          const runs = TILES.map((tile) => {
            const other = matrix(beside, n);
            const store = storesOf(mode, bias, other)[s];
            const adds = store.kind === 'add' || store.kind === 'gelu_grad_more'; // to zeros in the padding
            return { tile, other, store, C: adds ? matrix(o.c0, n) : junk(matrix(o.c0, n)) };
          });
          const results = await compute(
            () => runs.forEach(({ tile, C, store }) => withTile(tile, () => matmul(mode, o.A, o.B, C, store))),
            runs.flatMap(({ C, other }) => [withPadding(C), withPadding(other)]),
          );
          if (s === 0) check(results[0], o.product, n, `${mode} ${size}`);
          runs.forEach(({ tile, store }, i) => {
            const what = `${mode} ${size}, ${store.kind}, tile ${tile.rows}×${tile.cols}`;
            assert.equal(results.slice(2 * i, 2 * i + 2), results.slice(0, 2), what);
          });
        }
      }
    }
  }));

/** Shapes of weight gradients whose K is split: less than a tile, and ragged tiles, parts and steps. */
const SPLIT: readonly Size[] = [[5, 7, 1024], [33, 65, 1601], [70, 130, 2047]];

test('weight gradients whose K is split equal float64’s, plain and added, and repeat to the bit', () =>
  withSubgroup(0, async () => {
    const random = seeded(23);
    for (const size of SPLIT) {
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

halfTest('K is split alike for operands in f16: the bits of the same numbers in f32, and a sum in f16 is that one rounded', () =>
  withSubgroup(0, async () => {
    const { normals } = numbers(23, 'f16');
    for (const size of SPLIT) {
      const [m, n, k] = size;
      assert.ok(splitFor('tn', m, n, k).parts > 1, `${size} is split`);
      const [a, b, before] = [normals(m * k), normals(k * n), normals(m * n)];
      const product = matmulOf('tn', a, b, m, n, k);
      for (const store of [{ kind: 'plain' }, { kind: 'add', scale: 0.25 }] as const) {
        const run = (...[forA, forB, forC]: Storage[]) => ({ A: stored(a, m, undefined, forA), B: stored(b, n, undefined, forB), C: stored(before, n, undefined, forC) });
        const runs = [run('f32', 'f32', 'f32'), run('f16', 'f16', 'f32'), run('f32', 'f16', 'f32'), run('f16', 'f32', 'f32'), run('f16', 'f16', 'f16')];
        const [full, ...others] = await compute(() => runs.forEach(({ A, B, C }) => matmul('tn', A, B, C, store)), runs.map(({ C }) => C));
        const expected = store.kind === 'add' ? product.map((p, i) => before[i] + store.scale * p) : product;
        const off = close(`${size}`, full, expected);
        assert.ok(passed(off), `${size}, ${store.kind}: ${off.error}`);
        const rounded = others.pop()!;
        others.forEach((got, i) => assert.equal(got, full, `${size}, ${store.kind}: operands ${i}`));
        rounded.forEach((x, i) => assert.ok(Math.abs(x - full[i]) <= roundingOf('f16') * Math.abs(full[i]) + 2 ** -24, `${size}, ${store.kind}: ${x} for ${full[i]}`));
        assert.ok(rounded.some((x, i) => x !== full[i]), 'the sum is stored as f16');
      }
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

/** Rows that lie further apart than their columns ask: zeros up to a multiple of 4, then what belongs to others, not numbers. */
function apart(values: Float32Array, cols: number, gap: number, storage: Storage): Tensor {
  const [rows, stride] = [values.length / cols, pad4(cols) + gap];
  const all = new Float32Array(rows * stride).fill(NaN);
  for (let r = 0; r < rows; r++) all.fill(0, r * stride, r * stride + pad4(cols)).set(values.subarray(r * cols, (r + 1) * cols), r * stride);
  const tensor = persistent(rows, cols, stride, storage);
  upload(new Tensor(tensor.buffer, rows, stride, stride, 0, storage), all);
  return tensor;
}

/** Fails where a product of columns of wider matrices, beside which nothing is a number, is not what it is of those columns alone. */
async function checkApart(form: string, storage: Storage): Promise<void> {
  const { normals } = numbers(29, 'f16');
  const cases = MODES.flatMap((mode) => ([[5, 7, 3], [33, 19, 43], [18, 36, 8], [20, 9, 136], [9, 6, 1026]] as const).flatMap((size) => [4, 20].map((gap) => {
    const [m, n, k] = size;
    const [a, b, before] = [normals(m * k), normals(k * n), normals(m * n)];
    const A = apart(a, mode === 'tn' ? m : k, gap, storage);
    const B = apart(b, mode === 'nt' ? k : n, gap, storage);
    const add = apart(before, n, gap, 'f32');
    const columns = apart(new Float32Array(n), n, 0, 'f32');
    const product = matmulOf(mode, a, b, m, n, k);
    return { what: `${form}, ${mode} ${size}, ${gap} more`, mode, n, A, B, add, C: apart(before, n, gap, 'f32'), columns, before, product,
      sums: matmulOf('tn', new Float32Array(k).fill(1), b, 1, n, k) };
  })));
  const results = await compute(() => cases.forEach(({ mode, A, B, C, add, columns }) => {
    matmul(mode, A, B, C);
    matmul(mode, A, B, add, { kind: 'add', ...(mode === 'tn' ? { columns } : {}) });
  }), cases.flatMap(({ C, add, columns }) => [withPadding(C), withPadding(add), columns]));
  cases.forEach(({ what, mode, n, C, before, product, sums }, i) => {
    const [plain, added, columns] = results.slice(3 * i, 3 * i + 3);
    const within = (values: Float32Array): Float32Array => values.filter((_, at) => at % C.stride < pad4(n));
    check(within(plain), product, n, what);
    check(within(added), product.map((p, at) => before[at] + p), n, `${what}, added`);
    if (mode === 'tn') check(columns, sums, n, `${what}, sums of columns`);
    for (const values of [plain, added]) assert.ok(values.every((x, at) => at % C.stride < pad4(n) || Number.isNaN(x)), `${what}: what lies beside is untouched`);
  });
}

test('columns of a wider matrix are multiplied as if they stood alone: nothing beside them is read or changed', async () => {
  await onEachVariant((variant) => checkApart(variant, 'f32'));
  await withSubgroup(0, async () => {
    for (const tile of TILES) await new Promise<void>((done, fail) => withTile(tile, () => checkApart(`tile ${tile.rows}×${tile.cols}`, 'f32').then(done, fail)));
  });
});

halfTest('columns of a wider matrix on matrix units, emulated: the same', () =>
  withMatrix({ m: 16, n: 16, k: 16, lanes: 32, emulated: true }, async () => {
    const half = stored(new Float32Array(4), 4, undefined, 'f16');
    assert.ok(subgroupMatrixForm('nn', { kind: 'plain' }, half, half));
    await checkApart('matrix units', 'f16');
  }));

test.run();
