import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { flush, startBackend, tf } from '../../src/gpu/backend.ts';
import { gpu } from '../../src/gpu/device.ts';
import { matmul } from '../../src/gpu/ops/matmul.ts';
import { addInto } from '../../src/gpu/tape.ts';
import { record } from '../../src/gpu/program.ts';
import { persistent, readFloats, Tensor } from '../../src/gpu/tensor.ts';
import { matmulOf } from '../../src/self_test/reference/matmul.ts';
import { assertClose, closeAfterTests, matrix, openForTests, seeded } from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

/** The device buffer of a tfjs tensor (uploading it first if it still lies on the host). */
function bufferOf({ dataId }: tf.Tensor): GPUBuffer {
  const backend = tf.backend() as unknown as { uploadToGPU(id: object): void; tensorMap: { get(id: object): { resource: GPUBuffer } } };
  backend.uploadToGPU(dataId);
  return backend.tensorMap.get(dataId).resource;
}

/** A tfjs tensor [n,1] of n·4 bytes seen as ours. */
const ours = (t: tf.Tensor, rows: number, cols: number): Tensor => new Tensor(bufferOf(t), rows, cols, cols);

test('the backend is the WebGPU one on our device, and nothing falls back to the CPU', async () => {
  assert.is(tf.getBackend(), 'rlhf-webgpu');
  assert.is((tf.backend() as unknown as { device: GPUDevice }).device, gpu().device);
  assert.is(tf.env().getBool('WEBGPU_CPU_FORWARD'), false);
  const buffer = bufferOf(tf.zeros([8]));
  assert.ok(buffer instanceof GPUBuffer && buffer.size >= 32);
  const opened = gpu();
  assert.is(await startBackend(), opened, 'starting again keeps the device');
  assert.is((tf.backend() as unknown as { device: GPUDevice }).device, opened.device);
});

test('stock ops run on our backend: its kernels are registered under our name', () => {
  const names = new Set(tf.getKernelsForBackend('rlhf-webgpu').map((k) => k.kernelName));
  for (const op of ['_FusedMatMul', 'BatchMatMul', 'Add', 'Softmax', 'Transpose', 'Sum']) assert.ok(names.has(op), op);
});

test('stock matMul agrees with ours on the same numbers', async () => {
  const random = seeded(121);
  const [M, N, K] = [33, 20, 65];
  const [a, b] = [random.normals(M * K), random.normals(K * N)];
  const [A, B, C] = [matrix(a, K), matrix(b, N), persistent(M, N)];
  const program = await record(() => matmul('nn', A, B, C)).ready();
  program.run();
  const stock = tf.tidy(() => tf.matMul(tf.tensor2d(a, [M, K]), tf.tensor2d(b, [K, N])));
  const [theirs, mine] = [await stock.data(), await readFloats(C)];
  assertClose(mine, matmulOf('nn', a, b, M, N, K), 'ours', 2e-6);
  assertClose(mine, theirs, 'stock', 2e-6);
  stock.dispose();
});

test('our kernels read and write tfjs variables in place, in order with stock ops not yet submitted', async () => {
  const random = seeded(122);
  const [x, y] = [random.normals(64), random.normals(64)];
  const variable = tf.variable(tf.tensor1d(x));
  const other = tf.tensor1d(y);
  const doubled = tf.mul(other, 2); // recorded by tfjs, not yet sent
  const program = await record(() => addInto(ours(variable, 16, 4), ours(doubled, 16, 4))).ready();
  program.run(); // variable = x + 2y
  const squared = tf.square(variable); // a stock op on what our kernel wrote
  program.run(); // variable = x + 4y
  const expected = Array.from(x, (v, i) => v + 2 * y[i]);
  assertClose(
    await squared.data(),
    expected.map((v) => v * v),
    'square of the first sum',
    1e-6,
  );
  assertClose(
    await readFloats(ours(variable, 16, 4)),
    Array.from(x, (v, i) => v + 4 * y[i]),
    'second sum',
    1e-6,
  );
  for (const t of [variable, other, doubled, squared]) t.dispose();
});

test('what stock ops have recorded reaches the device when flushed', async () => {
  const a = tf.tensor1d([1, 2, 3, 4]);
  const sum = tf.add(a, 10);
  const view = ours(sum, 1, 4);
  flush();
  assert.equal([...(await readFloats(view))], [11, 12, 13, 14]);
  flush(); // with nothing pending
  for (const t of [a, sum]) t.dispose();
});

test('tfjs differentiates a graph of stock ops on our device', async () => {
  const x = tf.tensor1d([0.5, -1, 2]);
  const gradient = tf.grad((v) => tf.sum(tf.mul(v, tf.sigmoid(v))))(x);
  const slope = (v: number): number => {
    const s = 1 / (1 + Math.exp(-v));
    return s + v * s * (1 - s);
  };
  assertClose(await gradient.data(), [0.5, -1, 2].map(slope), 'gradient of SiLU', 2e-6);
  for (const t of [x, gradient]) t.dispose();
});

test.run();
