// Operands of products that a software driver reads in panels: the same bits as from a matrix that lies texel after texel, in every mode and
// wherever the matrix begins, and never an old copy.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readsTextures } from '../../src/gpu/mirror.ts';
import { fitPanels } from '../../src/gpu/mirror_layout.ts';
import { matmul, type Mode } from '../../src/gpu/ops/matmul.ts';
import { copy, isMirroredInPanels, record } from '../../src/gpu/program.ts';
import { destroy, persistent, readFloats, scratch, Tensor, upload, type Storage } from '../../src/gpu/tensor.ts';
import { matmulOf } from '../../src/self_test/reference/matmul.ts';
import { assertClose, closeAfterTests, halfTest, openForTests, seeded } from './device.ts';

await openForTests();
test.after(closeAfterTests);

const ALIGNED = 128; // numbers: rows of so many begin on multiples of 256 bytes in f32 and f16

/** A matrix whose rows can be copied as panels, or whose rows are a vec4 too long for that. */
function matrix(values: Float32Array, rows: number, cols: number, panels: boolean, storage: Storage): Tensor {
  const tensor = persistent(rows, cols, Math.ceil(cols / ALIGNED) * ALIGNED + (panels ? 0 : 4), storage);
  upload(tensor, values);
  return tensor;
}

async function product(mode: Mode, a: Tensor, b: Tensor, m: number, n: number): Promise<Float32Array> {
  const c = persistent(m, n);
  (await record(() => matmul(mode, a, b, c)).ready()).run();
  const values = await readFloats(c);
  destroy(c);
  return values;
}

for (const [storage, declare] of [['f32', test], ['f16', halfTest]] as const) {
  for (const mode of ['nn', 'nt', 'tn'] as const) {
    declare(`${storage} ${mode}: operands that can lie in panels give the bits of others`, async () => {
      const [m, n, k] = [300, 260, 290]; // no multiple of a tile, of a panel or of a turn of the loop
      const random = seeded(91);
      const fine = (count: number): Float32Array => random.normals(count).map((x) => Math.round(x * 64) / 64); // exact in f16
      const [a, b] = [fine(m * k), fine(k * n)];
      const aShape: [number, number] = mode === 'tn' ? [k, m] : [m, k];
      const bShape: [number, number] = mode === 'nt' ? [n, k] : [k, n];
      const results: Float32Array[] = [];
      for (const aligned of [false, true]) {
        const [A, B] = [matrix(a, ...aShape, aligned, storage), matrix(b, ...bShape, aligned, storage)];
        assert.is(fitPanels(A, B), aligned);
        results.push(await product(mode, A, B, m, n));
        destroy(A, B);
      }
      assertClose(results[0], matmulOf(mode, a, b, m, n, k), mode, 2e-6);
      assert.equal(results[1], results[0]);
    });
  }
}

for (const [storage, declare] of [['f32', test], ['f16', halfTest]] as const) {
  for (const mode of ['nn', 'nt'] as const) {
    declare(`${storage} ${mode}: A that lies in panels for its weight's gradient gives the bits of A that does not`, async () => {
      const [m, n, k] = [300, 132, 256];
      const random = seeded(95);
      const fine = (count: number): Float32Array => random.normals(count).map((x) => Math.round(x * 64) / 64);
      const [a, b] = [fine(m * k), fine(k * n)];
      const [A, B, x] = [matrix(a, m, k, true, storage), matrix(b, ...(mode === 'nt' ? [n, k] : [k, n]) as [number, number], true, storage), matrix(fine(m * 256), m, 256, true, storage)];
      const [c, gradient] = [persistent(m, n), persistent(k, 256)];
      const results: Float32Array[] = [];
      for (const before of [false, true]) {
        const program = await record(() => {
          const dy = scratch(m, k, k, storage);
          copy(A, dy);
          if (before) matmul('tn', dy, x, gradient);
          assert.is(isMirroredInPanels(dy), before && readsTextures());
          matmul(mode, dy, B, c);
        }).ready();
        program.run();
        results.push(await readFloats(c));
      }
      assertClose(results[0], matmulOf(mode, a, b, m, n, k), mode, 2e-6);
      assert.equal(results[1], results[0]);
      destroy(A, B, x, c, gradient);
    });
  }
}

test('columns and rows of a wider matrix lie in panels of their own', async () => {
  const [rows, cols, n] = [600, 512, 40];
  const random = seeded(92);
  const [all, b] = [random.normals(rows * cols), random.normals(300 * n)];
  const whole = matrix(all, rows, cols, true, 'f32');
  const B = matrix(b, 300, n, true, 'f32');
  const part = whole.rowRange(256, 300).columnRange(192, 256);
  const values = Float32Array.from({ length: 300 * 256 }, (_, i) => all[(256 + Math.floor(i / 256)) * cols + 192 + (i % 256)]);
  assertClose(await product('tn', part, B, 256, n), matmulOf('tn', values, b, 256, n, 300), 'part', 2e-6);
  assertClose(await product('tn', whole.rowRange(0, 300), B, cols, n), matmulOf('tn', all.subarray(0, 300 * cols), b, cols, n, 300), 'rows', 2e-6);
  upload(whole, all.map((x) => -x)); // both copies are old now
  assertClose(await product('tn', part, B, 256, n), matmulOf('tn', values.map((x) => -x), b, 256, n, 300), 'part, changed', 2e-6);
  destroy(whole, B);
});

test('more columns than an array of textures has layers of one panel', async () => {
  const [m, n, k] = [8448, 36, 256]; // A is [256, 8448]: 264 panels of 8 texels would be one too many eight times over
  const random = seeded(93);
  const [a, b] = [random.normals(k * m), random.normals(k * n)];
  const [A, B] = [matrix(a, k, m, true, 'f32'), matrix(b, k, n, true, 'f32')];
  assertClose(await product('tn', A, B, m, n), matmulOf('tn', a, b, m, n, k), 'many columns', 2e-6);
  destroy(A, B);
});

test('what a step writes is copied anew for the product after it, in the layout that it asks for', async () => {
  const [rows, cols] = [320, 128];
  const random = seeded(94);
  const [x, w] = [random.normals(rows * cols), random.normals(cols * cols)];
  const [X, W, sum, again] = [matrix(x, rows, cols, true, 'f32'), matrix(w, cols, cols, true, 'f32'), persistent(cols, cols), persistent(cols, cols)];
  const program = await record(() => {
    const y = scratch(rows, cols);
    matmul('nn', X, W, y);
    matmul('tn', y, y, sum);
    matmul('nn', y.rowRange(0, cols), W, again); // fewer rows: one panel
    matmul('nn', X, W, y, { kind: 'add', scale: 1 }); // 2 X·W
    matmul('tn', y, y, again);
  }).ready();
  for (let run = 0; run < 2; run++) program.run();
  const y = matmulOf('nn', x, w, rows, cols, cols);
  const first = matmulOf('tn', Float32Array.from(y), Float32Array.from(y), cols, cols, rows);
  assertClose(await readFloats(sum), first, 'before', 2e-5);
  assertClose(await readFloats(again), first.map((value) => 4 * value), 'after', 2e-5);
  destroy(X, W, sum, again);
});

test.run();
