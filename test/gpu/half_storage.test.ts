import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { floatToHalf, halfToFloat, halvesOf } from '../../src/files/float_formats.ts';
import { withHalfStorage } from '../../src/gpu/half_storage.ts';
import { compilation, kernel } from '../../src/gpu/kernel.ts';
import { narrow } from '../../src/gpu/ops/half.ts';
import { copy, launch, record } from '../../src/gpu/program.ts';
import { download, persistent, readFloats, Tensor, upload, vector } from '../../src/gpu/tensor.ts';
import { closeAfterTests, compute, halfTest, openForTests, seeded } from './device.ts';

await openForTests();
test.after(closeAfterTests);

const HEAD = `
@group(0) @binding(0) var<storage, read> A: array<vec4f>; // A[i] = nothing here;
@group(0) @binding(1) var<storage, read> AT: array<u32>;
@group(0) @binding(2) var<storage, read_write> C: array<f32>;
`;

test('only accesses of f16 bindings are rewritten: reads widened, stores narrowed', () => {
  const rewritten = (line: string, halves: number[]): string =>
    withHalfStorage(`${HEAD}${line}`, new Set(halves)).trimEnd().split('\n').at(-1)!;
  for (const [line, expected] of [
    ['C[i] = A[AT[i]].x;', 'C[i] = f16(vec4f(A[AT[i]]).x);'],
    ['C[AT[i] * 4] += p.scale * C[i];', 'C[AT[i] * 4] = f16(f32(C[AT[i] * 4]) + (p.scale * f32(C[i])));'],
    ['if (C[i] == 0) { let u = A[i][AT[0]]; C[i] = u; C[i]*=u; }',
      'if (f32(C[i]) == 0) { let u = vec4f(A[i])[AT[0]]; C[i] = f16(u); C[i] = f16(f32(C[i]) * (u)); }'],
    ['let x = A[AT[u32(C[i])]] + p.A[0] + CA[1];', 'let x = vec4f(A[AT[u32(f32(C[i]))]]) + p.A[0] + CA[1];'],
  ]) assert.is(rewritten(line, [0, 2]), expected);
  assert.is(rewritten('C[i] = A[i].x;', [0]), 'C[i] = vec4f(A[i]).x;');
  const whole = withHalfStorage(HEAD, new Set([0]));
  assert.match(whole, /^enable f16;\n/);
  assert.match(whole, /A: array<vec4h>;\s*\n/);
  assert.match(whole, /C: array<f32>/);
  assert.is(withHalfStorage(HEAD, new Set()), HEAD, 'without f16 nothing changes');
  const texture = (format: string): string => `@group(0) @binding(0) var A: texture_storage_2d<${format}, read>;\nlet x = textureLoad(A, at)[0];`;
  assert.is(withHalfStorage(texture('rgba32float'), new Set([0])), texture('rgba16float'), 'a texture gives f32 as it is');
});

test('what cannot be stored as f16 is refused', () => {
  assert.throws(() => withHalfStorage(HEAD, new Set([1])), /AT: an array of u32 cannot hold f16/);
  assert.throws(() => withHalfStorage(`${HEAD}A[i].x = 1;`, new Set([0])), /A: a part of an f16 element is stored/);
  const [full, half] = [vector(4), persistent(4, 1, 1, 'f16')];
  record(() => assert.throws(() => copy(full, half), /copy from f32 to f16/));
});

/** All halves, the numbers halfway between neighbours and those just beside, and what is beyond f16. */
function trickyNumbers(): Float32Array {
  const values: number[] = [];
  const word = new Uint32Array(1);
  const float = new Float32Array(word.buffer);
  for (let bits = 0; bits < 0x7c00; bits++) {
    const middle = bits === 0x7bff ? 65520 : (halfToFloat(bits) + halfToFloat(bits + 1)) / 2;
    float[0] = middle;
    word[0]--;
    values.push(halfToFloat(bits), middle, float[0]);
    word[0] += 2;
    values.push(float[0]);
  }
  values.push(65535, 1e30, Infinity, 1e-30, 2 ** -149, 2 ** -26);
  return Float32Array.from([...values, ...values.map((x) => -x)]);
}

test('the optimiser’s copy has the bits of the host’s conversion: halves, ties, subnormals, infinities', async () => {
  const values = trickyNumbers();
  const n = values.length & ~3;
  const [full, half] = [vector(n), persistent(n, 1, 1, 'f16')];
  upload(full, values.subarray(0, n));
  const expected = halvesOf(values.subarray(0, n));
  assert.ok(expected.every((bits, i) => bits === floatToHalf(values[i])), 'the fast conversion agrees with the plain one');
  (await record(() => narrow(full, half)).ready()).run();
  const [bits] = await download(new Tensor(half.buffer, n / 2, 1, 1));
  assert.equal(new Uint16Array(bits), expected);
  upload(half, values.subarray(0, n));
  const [uploaded] = await download(new Tensor(half.buffer, n / 2, 1, 1));
  assert.equal(new Uint16Array(uploaded), expected);
  const back = await readFloats(half);
  assert.ok(back.every((x, i) => Object.is(x, halfToFloat(expected[i]))));
  // NaN stays one.
  upload(full, new Float32Array(n).fill(NaN));
  const [nan] = await compute(() => narrow(full, half), [half]);
  assert.ok(nan.every((x) => Number.isNaN(x)));
});

test('odd shapes go up and come back, with zeros in the padding', async () => {
  const random = seeded(3);
  for (const [rows, cols, stride] of [[1, 1, 1], [3, 1, 1], [5, 3, 4], [7, 9, 12], [2, 8, 8]]) {
    const tensor = persistent(rows, cols, stride, 'f16');
    const values = random.normals(rows * cols);
    upload(tensor, values);
    const expected = Float32Array.from(halvesOf(values), halfToFloat);
    assert.equal(await readFloats(tensor), expected, `${rows} × ${cols}`);
    const whole = await readFloats(new Tensor(tensor.buffer, rows, stride, stride, 0, 'f16'));
    assert.ok(whole.every((x, i) => i % stride < cols || x === 0));
  }
});

test('sizes beyond 2 GiB are told right', () => {
  const buffer = { size: 2 ** 34 } as GPUBuffer;
  for (const [storage, bytes] of [['f32', 4], ['f16', 2]] as const) {
    const tensor = new Tensor(buffer, 2 ** 20, 1024, 1024, 0, storage);
    assert.is(tensor.bytes, bytes * 2 ** 30);
    assert.is(tensor.rowRange(2 ** 20 - 1, 1).offset, bytes * (2 ** 30 - 1024));
  }
});

test('rows and columns of an f16 tensor start where bindings may', async () => {
  const tensor = persistent(130, 132, 132, 'f16');
  const values = seeded(4).normals(130 * 132);
  upload(tensor, values);
  const halves = Float32Array.from(halvesOf(values), halfToFloat);
  assert.equal(await readFloats(tensor.rowRange(64, 2)), halves.slice(64 * 132, 66 * 132));
  assert.is(tensor.columnRange(128, 4).offset, 256);
  assert.throws(() => tensor.columnRange(64, 4), /column 64 does not start on a binding boundary/);
  assert.throws(() => tensor.rowRange(1, 1), /row 1 does not start on a binding boundary/);
});

const COPY = `
@group(0) @binding(0) var<storage, read> X: array<f32>;
@group(0) @binding(1) var<storage, read_write> Y: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) { Y[id.x] = X[id.x]; }`;

halfTest('a kernel stores the nearest half or its neighbour, and reads it exactly', async () => {
  const values = trickyNumbers().filter((x) => Math.abs(x) >= 2 ** -14 || x === 0); // drivers may flush subnormals
  const count = values.length & ~63;
  const [x, y] = [vector(count), persistent(count, 1, 1, 'f16')];
  upload(x, values.subarray(0, count));
  const before = compilation().created;
  const [got] = await compute(() => launch(kernel('copy', COPY), [x, y], [], [count / 64]), [y]);
  assert.is(compilation().created, before + 1);
  got.forEach((h, i) => {
    // WGSL lets a driver round either way, and what is too large become the largest half.
    const near = h === halfToFloat(floatToHalf(values[i])) || Math.abs(h - values[i]) <= 2 ** -10 * Math.abs(values[i]);
    assert.ok(near || Math.abs(values[i]) > 65504 && Math.abs(h) === 65504, `${h} for ${values[i]}`);
  });
  // Reading widens exactly.
  const z = vector(count);
  const [wide] = await compute(() => launch(kernel('copy', COPY), [y, z], [], [count / 64]), [z]);
  assert.equal(wide, got);
});

test.run();
