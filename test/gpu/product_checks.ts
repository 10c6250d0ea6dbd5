// What must hold of every form of the product, for the files that test them: of columns of wider matrices, and of a row in any batch.
import * as assert from 'uvu/assert';
import { matmul } from '../../src/gpu/ops/matmul.ts';
import { type Tile, tileFor, TILES, withTile } from '../../src/gpu/ops/matmul_forms.ts';
import { pad4, persistent, type Storage, Tensor, upload } from '../../src/gpu/tensor.ts';
import { numbers } from '../../src/self_test/on_device.ts';
import { matmulOf } from '../../src/self_test/reference/matmul.ts';
import { compute, matrix, padded, seeded, withPadding } from './device.ts';
import { check, MODES, storesOf } from './products.ts';

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
export async function checkApart(form: string, storage: Storage): Promise<void> {
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

const BATCHES = [1, 8, 16, 17, 33, 130];
/** N and K: all stores at one ragged size, and those whose loops differ (whole steps of K, a long and a short sum) plainly. */
const WIDTHS = [[43, 33, 9], [43, 172, 1], [36, 136, 1], [7, 3, 1], [129, 31, 1]] as const;

/** On GPUs: what a product of so many rows takes, and 64×64, as one does that is wide, for many of them. */
const tileOf = (m: number, n: number): Tile => (m > 64 ? TILES[2] : tileFor('nn', m, n));

/** Fails where a row has other bits alone than among 8, 16, 17, 33 or 130 rows, first or last, from any store. */
export async function checkRows(form: string): Promise<void> {
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
        for (const got of rows) assert.equal(got, rows[0], `${form}, ${mode} ${n}×${k}, ${same[0].store.kind}`);
      });
    }
  }
}
