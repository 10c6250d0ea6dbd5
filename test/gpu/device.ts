import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { startBackend } from '../../src/gpu/backend.ts';
import { checkDevice, closeDevice, gpu, withSubgroup } from '../../src/gpu/device.ts';
import { type Lanes, rowLanes, wideLanes } from '../../src/gpu/ops/reduction.ts';
import { copy, record } from '../../src/gpu/program.ts';
import { type Parameter, Tape } from '../../src/gpu/tape.ts';
import { download, persistent, scratch, Tensor, upload, vector } from '../../src/gpu/tensor.ts';

/**
 * Opens the device with Dawn’s bounds checks in the kernels, as GPUs have them: for `test.before`, or awaited before tests are declared
 * whose number depends on the device.
 */
export async function openForTests(): Promise<void> {
  await startBackend({ boundsChecks: true });
  const { device } = gpu();
  if (!rewriteKernel || rewritten.has(device)) return;
  rewritten.add(device);
  const create = device.createShaderModule.bind(device);
  device.createShaderModule = (descriptor) => create({ ...descriptor, code: rewriteKernel!(descriptor.code) });
}

let rewriteKernel: ((code: string) => string) | undefined;
const rewritten = new WeakSet<GPUDevice>();

/** Has the kernels of every device that `openForTests` opens from now on changed by `rewrite` before they are compiled. */
export function rewriteKernels(rewrite: (code: string) => string): void {
  rewriteKernel = rewrite;
}

/** Fails if the device reported an error that no test awaited, and closes it: for `test.after`. */
export async function closeAfterTests(): Promise<void> {
  checkDevice();
  await closeDevice();
}

/** Leaves a test out and says so: uvu counts it as skipped, and scripts/test.mjs prints the line. */
export function skip(name: string, reason: string): void {
  console.log(`skipped: ${name} (${reason})`);
  test.skip(name);
}

/** Declares a test of what is stored as f16, which the open device skips if it has no `shader-f16`. */
export function halfTest(name: string, run: () => void | Promise<void>): void {
  if (gpu().features.has('shader-f16')) test(name, run);
  else skip(name, 'the device has no shader-f16');
}

/** The ways to reduce that this device can run: each must give the same numbers to rounding. */
export function lanesToTest(): Lanes[] {
  const { subgroup } = gpu();
  const shared = { subgroup: 0, workgroup: 64 };
  return [wideLanes(), rowLanes(), ...(subgroup ? [{ subgroup, workgroup: subgroup }, { subgroup, workgroup: 64 }] : []), shared];
}

/**
 * Runs `work` for each form that kernels take by subgroup size: this adapter's own, and through workgroup memory; only the first or the second where
 * RLHF_TEST_FORMS says `own` or `memory`, for files whose second forms another file runs with narrow vectors (a third of the time to compile).
 */
export async function onEachVariant(work: (variant: string) => Promise<void>): Promise<void> {
  const { subgroup: own } = gpu();
  const forms = { own: [own], memory: [0] }[process.env.RLHF_TEST_FORMS ?? ''] ?? [own, 0];
  for (const subgroup of new Set(forms)) await withSubgroup(subgroup, () => work(`subgroup ${subgroup}`));
}

/** A seeded generator of numbers: `uniform` in [0,1), `normal` with variance 1, `below(n)` an integer in [0,n). */
export function seeded(seed: number) {
  let state = (seed * 2654435761 + 12345) >>> 0;
  const uniform = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
  const normal = (): number => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  const below = (n: number): number => Math.floor(uniform() * n);
  const normals = (n: number, scale = 1): Float32Array => Float32Array.from({ length: n }, () => normal() * scale);
  return { uniform, normal, below, normals };
}

/** A device column of these numbers (integers as u32). */
export function column(values: ArrayLike<number>, kind: 'f32' | 'u32' = 'f32'): Tensor {
  const tensor = vector(values.length);
  upload(tensor, kind === 'f32' ? Float32Array.from(values) : Uint32Array.from(values));
  return tensor;
}

/** A device matrix of these numbers, rows of `cols`, with the stride that kernels want (or `stride`). */
export function matrix(values: ArrayLike<number>, cols: number, kind: 'f32' | 'u32' = 'f32', stride?: number): Tensor {
  const tensor = persistent(values.length / cols, cols, stride);
  upload(tensor, kind === 'f32' ? Float32Array.from(values) : Uint32Array.from(values));
  return tensor;
}

/** A device vector of these numbers with zeros behind them to a multiple of 4, as the weights have them. */
export function padded(values: ArrayLike<number>): Tensor {
  const tensor = vector(Math.ceil(values.length / 4) * 4);
  upload(tensor, Float32Array.from(values));
  return tensor;
}

/** The same rows with their padding columns. */
export const withPadding = ({ buffer, rows, stride, offset }: Tensor): Tensor =>
  new Tensor(buffer, rows, stride, stride, offset);

/** A weight with a gradient of zeros. */
export const parameter = (name: string, value: Tensor): Parameter & { grad: Tensor } => ({
  name,
  value,
  grad: persistent(value.rows, value.cols, value.stride),
});

/** Records `build`, runs it `times` times, and reads these tensors back as float32. */
export async function compute(build: () => void, outputs: Tensor[], times = 1): Promise<Float32Array[]> {
  const program = await record(build).ready();
  for (let i = 0; i < times; i++) program.run();
  return (await download(...outputs)).map((bytes) => new Float32Array(bytes));
}

/**
 * Records an op and its backward from `dy`, and runs them: the op's result and the gradients of `inputs`. `arrived` are
 * gradients of the inputs that another path has brought before: the op must add to them.
 */
export async function differentiate(op: (tape: Tape) => Tensor, dy: Tensor, inputs: Tensor[], arrived?: Tensor[]) {
  const likeOf = ({ rows, cols, stride }: Tensor): Tensor => persistent(rows, cols, stride);
  const gradients = inputs.map(likeOf);
  const result = likeOf(dy);
  const duplicate = (t: Tensor): Tensor => {
    const twin = scratch(t.rows, t.cols, t.stride);
    copy(t, twin);
    return twin;
  };
  await compute(() => {
    const tape = new Tape(true);
    // Pushed first, run last: the inputs' gradients are complete.
    tape.push([], () => inputs.forEach((x, i) => copy(tape.take(x), gradients[i])));
    const y = op(tape);
    copy(y, result);
    inputs.forEach((x, i) => arrived && tape.give(x, duplicate(arrived[i])));
    tape.give(y, duplicate(dy));
    tape.done(y);
    tape.backward();
  }, []);
  const values = (await download(withPadding(result), ...gradients.map(withPadding))).map(
    (bytes) => new Float32Array(bytes),
  );
  return {
    y: unpadded(values[0], result, 'result'),
    gradients: gradients.map((g, i) => unpadded(values[i + 1], g, `gradient ${i}`)),
  };
}

/** Drops the padding columns of numbers read with `withPadding`; fails where they are not zero. */
export function unpadded(values: Float32Array, { cols, stride }: Tensor, message: string): Float32Array {
  assert.ok(
    values.every((x, i) => i % stride < cols || x === 0),
    `${message}: padding columns are zero`,
  );
  return values.filter((_, i) => i % stride < cols);
}

/** ‖a − b‖ / ‖b‖, infinite where a number is not finite or the lengths differ. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity;
  let difference = 0;
  let size = 0;
  for (let i = 0; i < expected.length; i++) {
    if (!Number.isFinite(actual[i])) return Infinity;
    difference += (actual[i] - expected[i]) ** 2;
    size += expected[i] ** 2;
  }
  return difference === 0 ? 0 : Math.sqrt(difference / Math.max(size, 1e-30));
}

/** Asserts ‖actual − expected‖ ≤ relative · ‖expected‖ (+ absolute · √n). */
export function assertClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  message: string,
  relative = 1e-5,
  absolute = 0,
): void {
  assert.is(actual.length, expected.length, `${message}: length`);
  const size = Math.sqrt(Array.from(expected).reduce((sum, x) => sum + x * x, 0));
  const error = relativeError(actual, expected) * Math.max(size, 1e-15);
  const allowed = relative * size + absolute * Math.sqrt(expected.length);
  if (!(error <= allowed)) {
    let worst = 0;
    for (let i = 0; i < expected.length; i++) {
      const off = Math.abs(actual[i] - expected[i]);
      if (!(off <= Math.abs(actual[worst] - expected[worst]))) worst = i;
    }
    assert.unreachable(
      `${message}: off by ${error.toExponential(2)} (${allowed.toExponential(2)} allowed); ` +
        `worst at ${worst}: ${actual[worst]} for ${expected[worst]}`,
    );
  }
}

/** JSON of test/fixtures. */
export const fixture = (path: string): any =>
  JSON.parse(readFileSync(join(process.env.RLHF_ROOT!, 'test/fixtures', path), 'utf8'));
