import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { loadDawn, withMatrix } from '../../src/gpu/device.ts';
import { matrixUnits, type MatrixUnits } from '../../src/gpu/matrix_units.ts';
import { withHalfStorage } from '../../src/gpu/half_storage.ts';
import { matmul, type Mode, type Store } from '../../src/gpu/ops/matmul.ts';
import { matrixConstants, matrixTemplate, subgroupMatrixForm } from '../../src/gpu/ops/matmul_subgroup_matrix.ts';
import { renderTemplate } from '../../src/gpu/template.ts';
import { pad4, Tensor } from '../../src/gpu/tensor.ts';
import { passed } from '../../src/self_test/check.ts';
import { matmulChecks } from '../../src/self_test/matmul.ts';
import { matrix as stored, numbers } from '../../src/self_test/on_device.ts';
import { matmulOf } from '../../src/self_test/reference/matmul.ts';
import { assertClose, closeAfterTests, compute, halfTest, matrix, openForTests } from './device.ts';

await openForTests();
test.after(closeAfterTests);

const MODES: readonly Mode[] = ['nn', 'nt', 'tn'];
/** NVIDIA's configurations, Intel's and one with all sides different. */
const UNITS: readonly MatrixUnits[] = [
  { m: 16, n: 16, k: 16, lanes: 32 },
  { m: 16, n: 8, k: 16, lanes: 32 },
  { m: 8, n: 16, k: 16, lanes: 16 },
  { m: 8, n: 8, k: 8, lanes: 32 },
  { m: 8, n: 16, k: 32, lanes: 64 },
];
const half = (values: Float32Array, cols: number) => stored(values, cols, undefined, 'f16');
const emulated = (units: MatrixUnits): MatrixUnits => ({ ...units, emulated: true });

/** Whether Dawn's compiler takes the WGSL, on its backend that runs nothing but has subgroup matrices: the errors it tells. */
async function errorsOf(device: GPUDevice, code: string): Promise<string[]> {
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code });
  const told = (await module.getCompilationInfo()).messages.map(({ message }) => message);
  await device.createComputePipelineAsync({ layout: 'auto', compute: { module } }).catch((error: Error) => told.push(error.message));
  const error = await device.popErrorScope();
  return error ? [...told, error.message] : told;
}

test('Dawn compiles every form without a word, and refuses one whose matrices do not fit', async () => {
  const dawn = await loadDawn();
  const instance = dawn.create(['backend=null', 'enable-dawn-features=allow_unsafe_apis']);
  const adapter = (await instance.requestAdapter())!;
  const device = await adapter.requestDevice({
    requiredFeatures: ['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix'] as GPUFeatureName[],
  });
  const other = half(new Float32Array(4), 4);
  const stores: Store[] = [
    { kind: 'plain' }, { kind: 'residual', residual: other }, { kind: 'add' },
    ...(['tanh', 'erf'] as const).flatMap((act): Store[] => [{ kind: 'gelu_alone', act },
      ...(['gelu', 'gelu_grad', 'gelu_more', 'gelu_grad_more'] as const).map((kind) => ({ kind, act, preactivation: other }))]),
  ];
  for (const units of UNITS) {
    for (const mode of MODES) {
      for (const store of units === UNITS[0] ? stores : stores.slice(0, 1)) {
        // A workgroup must hold whole subgroups of this adapter's largest size, 128: as many lanes as 32 a subgroup give.
        const code = renderTemplate(matrixTemplate, { ...matrixConstants(mode, store, units), LANES: 32 });
        for (const halves of [[0, 1], [0, 1, 2, 3, 4]]) {
          const what = `${mode}, ${JSON.stringify(units)}, ${store.kind}, f16: ${halves}`;
          const wgsl = withHalfStorage(code, new Set(halves));
          assert.match(wgsl, 'subgroupMatrixMultiplyAccumulate(');
          assert.equal(await errorsOf(device, wgsl), [], what);
        }
      }
    }
  }
  const code = renderTemplate(matrixTemplate, matrixConstants('nn', { kind: 'plain' }, UNITS[0]));
  const wrong = withHalfStorage(code, new Set([0, 1])).replaceAll('matrix_left<f16, 16, 16>', 'matrix_left<f16, 8, 16>');
  assert.match((await errorsOf(device, wrong)).join(), 'no matching call');
  device.destroy();
});

/** M, N, K: less than a tile, whole tiles and more, each side ragged in every way, and sums longer than a staged depth. */
const SIZES = [[1, 1, 1], [3, 7, 9], [17, 65, 43], [64, 64, 32], [65, 43, 33], [130, 67, 31], [31, 129, 70], [200, 34, 100]] as const;

halfTest('emulated, every configuration and mode equals the float64 reference at odd sizes, with zeros in the padding', async () => {
  for (const units of UNITS) {
    await withMatrix(emulated(units), async () => {
      const { normals } = numbers(5, 'f16');
      const cases = MODES.flatMap((mode) => SIZES.map(([m, n, k]) => {
        const [a, b] = [normals(m * k), normals(k * n)];
        const A = half(a, mode === 'tn' ? m : k);
        const B = half(b, mode === 'nt' ? k : n);
        assert.ok(subgroupMatrixForm(mode, { kind: 'plain' }, A, B), 'this is the form that is tested');
        const C = matrix(new Float32Array(m * (pad4(n) + 4)).fill(7), pad4(n) + 4);
        return { what: `${JSON.stringify(units)}, ${mode} ${m}×${n}×${k}`, n, mode, A, B, C, expected: matmulOf(mode, a, b, m, n, k) };
      }));
      const results = await compute(
        () => cases.forEach(({ mode, A, B, C, n }) => matmul(mode, A, B, new Tensor(C.buffer, C.rows, n, C.stride))),
        cases.map(({ C }) => C),
      );
      results.forEach((got, i) => {
        const { what, n, expected } = cases[i];
        const column = (at: number): number => at % (pad4(n) + 4);
        // Operands are exactly what f16 holds, so that only sums in float32 round.
        assertClose(got.filter((_, at) => column(at) < n), expected, what, 2e-6);
        const rest = got.every((x, at) => column(at) < n || x === (column(at) < pad4(n) ? 0 : 7));
        assert.ok(rest, `${what}: padding columns are zero, those behind them untouched`);
      });
    });
  }
});

halfTest('emulated, every store with f16 operands alone and with all in f16, equals the float64 reference', async () => {
  await withMatrix(emulated(UNITS[0]), async () => {
    for (const always of ['ab', 'abco']) {
      const checks = await matmulChecks('f16', always);
      assert.ok(checks.length > 0);
      for (const { what, error, allowed } of checks) assert.ok(passed({ what, error, allowed }), `${always} in f16, ${what}: ${error}, ${allowed} allowed`);
    }
  });
});

halfTest('emulated, the sums of columns that may go with a weight gradient are added all the same', async () => {
  await withMatrix(emulated(UNITS[0]), async () => {
    const { normals } = numbers(7, 'f16');
    const [m, n, k] = [9, 33, 70];
    const [a, b] = [normals(m * k), normals(k * n)];
    const C = matrix(new Float32Array(m * n), n);
    const columns = matrix(new Float32Array(n).fill(2), n);
    const [got, sums] = await compute(() => matmul('tn', half(a, m), half(b, n), C, { kind: 'add', columns }), [C, columns]);
    assertClose(got, matmulOf('tn', a, b, m, n, k), 'product', 2e-6);
    const ones = new Float32Array(k).fill(1);
    assertClose(sums, matmulOf('tn', ones, b, 1, n, k).map((x) => x + 2), 'sums of columns', 2e-6);
  });
});

halfTest('emulated, a row’s product has the same bits alone, and first or last among rows of huge numbers', async () => {
  await withMatrix(emulated(UNITS[0]), async () => {
    const { normals } = numbers(13, 'f16');
    const [n, k] = [43, 172];
    const row = normals(k);
    const b = normals(n * k);
    for (const mode of ['nn', 'nt'] as const) {
      const B = half(b, mode === 'nt' ? k : n);
      const cases = [1, 16, 17, 64, 65, 130].flatMap((m) => [0, m - 1].map((at) => {
        const a = new Float32Array(m * k).fill(60000);
        a.set(row, at * k);
        return { at, A: half(a, k), C: matrix(new Float32Array(m * n), n) };
      }));
      const results = await compute(() => cases.forEach(({ A, C }) => matmul(mode, A, B, C)), cases.map(({ C }) => C));
      const rows = results.map((values, i) => [...values.subarray(cases[i].at * n, (cases[i].at + 1) * n)]);
      for (const got of rows) assert.equal(got, rows[0], mode);
    }
  });
});

test('the form is taken only with matrix units and both operands in f16', async () => {
  const [h, f] = [half(new Float32Array(16), 4), matrix(new Float32Array(16), 4)];
  await withMatrix(undefined, async () => assert.is(subgroupMatrixForm('nn', { kind: 'plain' }, h, h), undefined));
  await withMatrix(emulated(UNITS[0]), async () => {
    assert.ok(subgroupMatrixForm('nn', { kind: 'plain' }, h, h));
    assert.is(subgroupMatrixForm('nn', { kind: 'plain' }, h, f), undefined);
    assert.is(subgroupMatrixForm('nn', { kind: 'plain' }, f, h), undefined);
  });
});

test('of an adapter’s configurations the largest of f16 with f32 sums is taken that the kernel can use', () => {
  const features = new Set(['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix']);
  const config = (componentType: string, resultComponentType: string, M: number, N: number, K: number) => ({ componentType, resultComponentType, M, N, K });
  const info = (...subgroupMatrixConfigs: unknown[]) => ({ subgroupMatrixConfigs }) as unknown as GPUAdapterInfo;
  const nvidia = info(config('f16', 'f16', 16, 16, 16), config('f16', 'f32', 16, 8, 8), config('f16', 'f32', 16, 16, 16), config('i8', 'i32', 32, 32, 32));
  assert.equal(matrixUnits(nvidia, features, 32), { m: 16, n: 16, k: 16, lanes: 32 });
  assert.is(matrixUnits(nvidia, features, 0), undefined, 'subgroups of no fixed size');
  const rdna3 = Object.assign(info(config('f16', 'f32', 16, 16, 16)), { subgroupMinSize: 32, subgroupMaxSize: 64 });
  assert.equal(matrixUnits(rdna3, new Set([...features, 'subgroup-size-control']), 0), { m: 16, n: 16, k: 16, lanes: 32, pinned: true });
  for (const feature of features) assert.is(matrixUnits(nvidia, new Set([...features].filter((f) => f !== feature)), 32), undefined, feature);
  assert.is(matrixUnits(info(config('f32', 'f32', 8, 8, 8), config('f16', 'f32', 24, 8, 8)), features, 32), undefined);
  assert.is(matrixUnits({} as GPUAdapterInfo, features, 32), undefined);
});

test.run();
