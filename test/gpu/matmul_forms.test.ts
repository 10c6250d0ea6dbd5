// What holds of every form of the product: which one runs, its tile and how far apart rows lie must not show. Here as this adapter multiplies and on
// matrix units; matmul_tiles.test.ts has the tiles for GPUs.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { withMatrix } from '../../src/gpu/device.ts';
import { subgroupMatrixForm } from '../../src/gpu/ops/matmul_subgroup_matrix.ts';
import { matrix as stored } from '../../src/self_test/on_device.ts';
import { closeAfterTests, halfTest, openForTests } from './device.ts';
import { checkApart, checkRows } from './product_checks.ts';

await openForTests();
test.after(closeAfterTests);

test('a row has the same bits in every batch, from every store: alone, among 8, 16, 17, 33 or 130 rows, first or last', () =>
  checkRows('as this adapter multiplies'));

test('columns of a wider matrix are multiplied as if they stood alone: nothing beside them is read or changed', () =>
  checkApart('as this adapter multiplies', 'f32'));

halfTest('columns of a wider matrix on matrix units, emulated: the same', () =>
  withMatrix({ m: 16, n: 16, k: 16, lanes: 32, emulated: true }, async () => {
    const half = stored(new Float32Array(4), 4, undefined, 'f16');
    assert.ok(subgroupMatrixForm('nn', { kind: 'plain' }, half, half));
    await checkApart('matrix units', 'f16');
  }));

test.run();
