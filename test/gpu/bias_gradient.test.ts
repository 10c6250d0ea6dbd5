// The sums of columns that a weight gradient's product makes beside it, in each form that makes them.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { withSubgroup } from '../../src/gpu/device.ts';
import { matmul } from '../../src/gpu/ops/matmul.ts';
import { splitFor, TILES, withTile } from '../../src/gpu/ops/matmul_forms.ts';
import { record } from '../../src/gpu/program.ts';
import { assertClose, closeAfterTests, compute, matrix, openForTests, padded, seeded } from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

/** A [K,M], B [K,N], what the bias' gradient held before, and float64's sums of B's columns on top of it, zeros behind them. */
function operands([m, n, k]: readonly [number, number, number]) {
  const random = seeded(31);
  const [a, b, before] = [random.normals(k * m), random.normals(k * n), random.normals(n)];
  const expected = new Float64Array(Math.ceil(n / 4) * 4);
  expected.set(before);
  b.forEach((x, i) => (expected[i % n] += x));
  return { A: matrix(a, m), B: matrix(b, n), C: () => matrix(new Float32Array(m * n), n), before, expected };
}

test('every tile for GPUs sums the columns of B once, in one order', () =>
  withSubgroup(0, async () => {
    // More than one tile of rows (only the first may sum), columns past a tile's edge, K that is no multiple of 16.
    const o = operands([141, 131, 43]);
    const columns = TILES.map(() => padded(o.before));
    const results = await compute(
      () => TILES.forEach((tile, i) => withTile(tile, () => matmul('tn', o.A, o.B, o.C(), { kind: 'add', columns: columns[i] }))),
      columns,
    );
    results.forEach((values, i) => {
      const label = `tile ${TILES[i].rows}×${TILES[i].cols}`;
      assertClose(values, o.expected, label, 2e-6);
      assert.equal(values, results[0], `${label}: bits`);
    });
  }));

test('where K is split, the parts of the sums are added up beside those of the product', () =>
  withSubgroup(0, async () => {
    for (const size of [[5, 7, 1024], [70, 130, 2047]] as const) {
      assert.ok(splitFor('tn', size[0], size[1], size[2]).parts > 1, `${size} is split`);
      const o = operands(size);
      const columns = [padded(o.before), padded(o.before)];
      const [alone, beside] = [o.C(), o.C()];
      const [sums, again, plain, product] = await compute(() => {
        columns.forEach((each, i) => matmul('tn', o.A, o.B, i === 0 ? beside : o.C(), { kind: 'add', columns: each }));
        matmul('tn', o.A, o.B, alone, { kind: 'add' });
      }, [...columns, alone, beside]);
      assertClose(sums, o.expected, `${size}`, 2e-6);
      assert.equal(again, sums, `${size}: again`);
      assert.equal(product, plain, `${size}: the product is what it is without sums`);
    }
  }));

test('on GPUs too a bias costs no dispatch of its own', () =>
  withSubgroup(0, async () => {
    for (const [size, dispatches] of [[[16, 16, 64], 1], [[16, 16, 2048], 2]] as const) {
      const o = operands(size);
      const program = record(() => matmul('tn', o.A, o.B, o.C(), { kind: 'add', columns: padded(o.before) }));
      assert.is(program.dispatches, dispatches, `${size}`);
    }
  }));

test.run();
