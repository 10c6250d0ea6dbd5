import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { gpu, withSubgroup } from '../../src/gpu/device.ts';
import { compilation, kernel } from '../../src/gpu/kernel.ts';
import { matmul } from '../../src/gpu/ops/matmul.ts';
import { clear, copy, f32, launch, record, runOnce } from '../../src/gpu/program.ts';
import { renderTemplate } from '../../src/gpu/template.ts';
import { addInto } from '../../src/gpu/tape.ts';
import {
  arenaBytes,
  download,
  persistent,
  placeOf,
  readFloats,
  release,
  scratch,
  stage,
  Tensor,
  upload,
  vector,
} from '../../src/gpu/tensor.ts';
import { tf } from '../../src/gpu/backend.ts';
import { load, trainer, vectors, realRows, likelihoodRows } from '../model/golden.ts';
import { assertClose, closeAfterTests, column, compute, matrix, openForTests, seeded, withPadding } from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

const SCALE = `
struct P { count: u32, factor: f32 }
@group(0) @binding(0) var<storage, read> X: array<f32>;
@group(0) @binding(1) var<storage, read_write> Y: array<f32>;
@group(0) @binding(2) var<uniform> p: P;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x < p.count) { Y[id.x] = p.factor * X[id.x] + \${PLUS}; }
}`;

test('a recorded step is replayed on whatever its buffers hold', async () => {
  const [x, y] = [vector(3), vector(3)];
  const program = record(() => {
    launch(kernel('scale', SCALE, { PLUS: 1 }), [x, y], [3, f32(0.5)], [1]);
    return y;
  });
  assert.is(program.result, y);
  await program.ready();
  for (const values of [
    [2, 4, 6],
    [-1, 0, 1],
  ]) {
    upload(x, Float32Array.from(values));
    program.run();
    assert.equal(
      [...(await readFloats(y))],
      values.map((v) => 0.5 * v + 1),
    );
  }
});

test('kernels, fillings and copies run in the order they were recorded in, dispatches in one pass or not', async () => {
  const [a, b, c] = [column([1, 1, 1, 1]), column([10, 20, 30, 40]), vector(4)];
  const build = (): void => {
    addInto(a, b); // a = 1 + b
    copy(a, c);
    addInto(c, b); // c = 1 + 2b
    clear(a);
    addInto(a, c); // a = 1 + 2b
  };
  const program = await record(build).ready();
  assert.is(program.dispatches, 5);
  program.run();
  assert.equal(
    (await download(a, c)).map((bytes) => [...new Float32Array(bytes)]),
    [
      [21, 41, 61, 81],
      [21, 41, 61, 81],
    ],
  );
});

test('several programs share one submission’s order, and runOnce does what it says', async () => {
  const [a, one] = [vector(4), column([1, 1, 1, 1])];
  const step = await record(() => addInto(a, one)).ready();
  for (let i = 0; i < 300; i++) step.run();
  await runOnce(() => addInto(a, one));
  assert.equal([...(await readFloats(a))], [301, 301, 301, 301]);
});

test('what was staged is read as it was then, whatever runs afterwards', async () => {
  const [a, one] = [vector(4), column([1, 1, 1, 1])];
  const step = await record(() => addInto(a, one)).ready();
  step.run();
  const staged = stage(a);
  step.run();
  const [then] = await staged.read();
  assert.equal([...new Float32Array(then)], [1, 1, 1, 1]);
  assert.equal([...(await readFloats(a))], [2, 2, 2, 2]);
});

test('a kernel is made once for its constants, subgroup size and the storage of its tensors', async () => {
  const before = compilation().created;
  const one = kernel('scale', SCALE, { PLUS: 7 });
  assert.is(kernel('scale', SCALE, { PLUS: 7 }), one);
  assert.is.not(kernel('scale', SCALE, { PLUS: 8 }), one);
  await withSubgroup(gpu().subgroup + 1, async () => assert.is.not(kernel('scale', SCALE, { PLUS: 7 }), one));
  assert.is(kernel('scale', SCALE, { PLUS: 7 }), one);
  assert.is(compilation().created, before, 'nothing is compiled before it is launched');
  const form = one.form();
  assert.is(one.form(['f32', 'f32']), form);
  assert.is(compilation().created, before + 1);
  assert.equal([form.tensors, form.hasUniform], [2, true]);
  await form.ready;
});

test('misuse is refused where it is written', async () => {
  const x = vector(4);
  assert.throws(() => launch(kernel('scale', SCALE, { PLUS: 1 }), [x, x], [4, f32(1)], [1]), /outside a recorded step/);
  assert.throws(() => clear(x), /outside a recorded step/);
  assert.throws(() => copy(x, x), /outside a recorded step/);
  assert.throws(() => scratch(1, 1), /only while a step is recorded/);
  record(() => {
    assert.throws(() => record(() => undefined), /already being recorded/);
    assert.throws(() => launch(kernel('scale', SCALE, { PLUS: 1 }), [x], [4, f32(1)], [1]), /takes 2 tensors, got 1/);
    assert.throws(() => copy(vector(1), x), /copy from a smaller tensor/);
    const many = gpu().adapter.limits.maxComputeWorkgroupsPerDimension + 1;
    assert.throws(
      () => launch(kernel('scale', SCALE, { PLUS: 1 }), [x, vector(4)], [4, f32(1)], [many]),
      /workgroups are more than the device takes/,
    );
  });
  assert.throws(
    () =>
      record(() => {
        throw new Error('from the model');
      }),
    /from the model/,
  );
  await compute(() => scratch(1, 1), []); // a failed recording does not stay open
});

test('templates: statements, expressions and every type of constant', () => {
  const source = [
    '//% if (ON) {',
    'on ${NAME}',
    '//% } else {',
    'off',
    '//% }',
    '//% for (let i = 0; i < N; i++) {',
    'x${i * 2};',
    '//% }',
  ].join('\n');
  assert.is(renderTemplate(source, { ON: true, NAME: 'a', N: 2 }), 'on a\nx0;\nx2;\n');
  assert.is(renderTemplate(source, { ON: false, NAME: 'a', N: 1 }), 'off\nx0;\n');
});

test('scratch tensors that are given up make room for others, those still needed and those held do not', async () => {
  const one = column(new Array(1000).fill(1));
  const program = await record(() => {
    const filled = (): Tensor => {
      const t = scratch(1000, 1, 1);
      clear(t);
      addInto(t, one);
      return t;
    };
    const [a, b] = [filled(), filled()];
    addInto(b, a);
    release(a);
    release(a); // twice does no harm
    const c = filled();
    addInto(c, b);
    release(b);
    const d = filled();
    addInto(d, c);
    return [a, b, c, d];
  }).ready();
  const [a, b, c, d] = program.result.map(placeOf);
  assert.is.not(b.buffer, c.buffer, 'one dispatch reads the one and writes the other');
  assert.ok(c.buffer === a.buffer && c.offset === a.offset, 'in the place of what is not needed any more');
  assert.ok(d.buffer === b.buffer && d.offset === b.offset);
  program.run();
  assert.equal((await readFloats(program.result[2]!)).slice(0, 2), Float32Array.of(3, 3));
  assert.equal((await readFloats(program.result[3]!)).slice(0, 2), Float32Array.of(4, 4), 'what is held can be read when the step has run');
});

test('tensors: strides, padding of zeros, ranges of rows, uploads of each type', async () => {
  const random = seeded(111);
  for (const [rows, cols] of [
    [1, 1],
    [3, 7],
    [33, 43],
    [5, 8],
  ]) {
    const values = random.normals(rows * cols);
    const t = matrix(values, cols);
    assert.is(t.stride, Math.ceil(cols / 4) * 4);
    assert.equal(await readFloats(t), values);
    const whole = await readFloats(withPadding(t));
    assert.ok(whole.every((x, i) => i % t.stride < cols || x === 0));
  }
  const t = matrix(random.normals(40 * 16), 16);
  assert.equal(await readFloats(t.rowRange(8, 3)), (await readFloats(t)).slice(8 * 16, 11 * 16));
  assert.throws(() => t.rowRange(3, 2), /row 3 does not start on a binding boundary/);
  const ids = vector(3);
  upload(ids, Uint32Array.of(1, 0xffffffff, 3));
  assert.equal([...new Uint32Array((await download(ids))[0])], [1, 0xffffffff, 3]);
  assert.throws(() => upload(ids, new Float32Array(4)), /4 values for 3 × 1/);
});

test('50 replays of a model’s training step take no memory, make no kernel and give the same loss', async () => {
  const oracle = vectors('llama-tiny');
  const model = load('llama-tiny');
  const batch = likelihoodRows(realRows(oracle), (b, t) => oracle.labels[b][t] !== -100, oracle.n_label_tokens);
  const training = trainer(model);
  const first = await training.run([batch]);
  const state = (): unknown => [
    arenaBytes(),
    compilation().created,
    tf.memory().numTensors,
    tf.memory().numBytes,
    (tf.memory() as unknown as { numBytesInGPU: number }).numBytesInGPU,
  ];
  const before = state();
  const made: number[] = [];
  const { device } = gpu();
  const createBuffer = device.createBuffer.bind(device);
  device.createBuffer = (descriptor) => {
    if (!(descriptor.usage & 1)) made.push(descriptor.size); // all but those that results are read through
    return createBuffer(descriptor);
  };
  try {
    for (let i = 0; i < 50; i++) assert.is((await training.run([batch])).loss, first.loss);
    vector(8);
  } finally {
    delete (device as Partial<GPUDevice>).createBuffer;
  }
  assert.equal(made, [32], 'no buffer but the one made here on purpose');
  assert.equal(state(), before);
});

test('a product’s program is as many dispatches as it has kernels', async () => {
  const [a, b, c] = [matrix(new Float32Array(12), 4), matrix(new Float32Array(20), 4), persistent(3, 5)];
  const program = await record(() => matmul('nt', a, b, c)).ready();
  assert.is(program.dispatches, 1);
  program.run();
  assert.equal([...(await readFloats(c))], new Array(15).fill(0));
  assert.is(program.commands[0].kind, 'dispatch');
});

test('a buffer seen through a view with an offset is read from there', async () => {
  const values = seeded(112).normals(128);
  const all = column(values);
  const view = new Tensor(all.buffer, 64, 1, 1, 256);
  const y = vector(64);
  const [got] = await compute(() => launch(kernel('scale', SCALE, { PLUS: 0 }), [view, y], [64, f32(2)], [1]), [y]);
  assertClose(
    got,
    values.slice(64).map((v) => 2 * v),
    'second half',
    0,
  );
});

test.run();
