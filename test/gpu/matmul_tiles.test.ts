// The product's tiles for GPUs, and how K is split there: none of it must show. Without subgroups, so the driver's vectors need not be wide: with 128
// bits, a third of the time to compile.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { withSubgroup } from '../../src/gpu/device.ts';
import { matmul } from '../../src/gpu/ops/matmul.ts';
import { splitFor, TILES, withTile } from '../../src/gpu/ops/matmul_forms.ts';
import type { Storage } from '../../src/gpu/tensor.ts';
import { type Check, close, passed, roundingOf } from '../../src/self_test/check.ts';
import { matmulChecks } from '../../src/self_test/matmul.ts';
import { matrix as stored, numbers } from '../../src/self_test/on_device.ts';
import { matmulOf } from '../../src/self_test/reference/matmul.ts';
import { closeAfterTests, compute, halfTest, matrix, openForTests, padded, seeded, withPadding } from './device.ts';
import { checkApart, checkRows } from './product_checks.ts';
import { check, junk, MODES, operands, type Size, storesOf } from './products.ts';

process.env.LP_NATIVE_VECTOR_WIDTH = '128';
await openForTests();
test.after(closeAfterTests);

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

test('a row has the same bits in every batch, from every store: alone, among 8, 16, 17, 33 or 130 rows, first or last', () =>
  withSubgroup(0, () => checkRows('tiles')));

test('in every tile, columns of a wider matrix are multiplied as if they stood alone: nothing beside them is read or changed', () =>
  withSubgroup(0, async () => {
    for (const tile of TILES) await new Promise<void>((done, fail) => withTile(tile, () => checkApart(`tile ${tile.rows}×${tile.cols}`, 'f32').then(done, fail)));
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

test.run();
