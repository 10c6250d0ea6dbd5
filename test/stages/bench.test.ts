import { readFileSync, writeFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { byKernel, observe } from '../../src/bench/observe.ts';
import { matmul } from '../../src/gpu/ops/matmul.ts';
import { addInto } from '../../src/gpu/tape.ts';
import { clear, copy, record } from '../../src/gpu/program.ts';
import { persistent, readFloats, upload, vector } from '../../src/gpu/tensor.ts';
import { closeAfterTests, matrix, openForTests, seeded } from '../gpu/device.ts';
import { prepareData } from '../crash/runs.ts';
import { buildWholeProgram, jsonLines, type WholeProgram } from '../properties/program.ts';

let rlhf: WholeProgram;
test.before(async () => {
  await openForTests();
  rlhf = await buildWholeProgram();
});
test.after(async () => {
  rlhf.remove();
  await closeAfterTests();
});

const bench = async (...args: string[]): Promise<Record<string, any>[]> =>
  jsonLines(await rlhf.succeed(['bench', ...args, '--steps', '1', '--quiet']));
/** Fails unless the line's numbers are positive and agree with one another. */
function checkLine(line: Record<string, any>): void {
  for (const [name, value] of Object.entries(line)) if (typeof value === 'number') assert.ok(value >= 0 && Number.isFinite(value), `${line.name}: ${name} ${value}`);
  assert.ok(line.ms > 0 && line.ms_min <= line.ms && line.ms <= line.ms_max);
  assert.ok(line.dispatches > 0 && line.submits > 0);
  assert.is(typeof line.adapter, 'string');
}

test('observed work gives the same results; its dispatches, copies, submits, uploads and kernels are counted', async () => {
  const { normals } = seeded(5);
  const [a, b, c, sum, kept] = [matrix(normals(40 * 24), 24), matrix(normals(24 * 36), 36), persistent(40, 36), persistent(40, 36), persistent(40, 36)];
  const once = vector(8);
  const program = await record(() => {
    clear(sum);
    matmul('nn', a, b, c);
    addInto(sum, c);
    addInto(sum, c);
    copy(sum, kept);
  }).ready();
  program.run();
  const expected = await readFloats(sum);
  for (const each of [false, true]) {
    upload(sum, new Float32Array(40 * 36));
    const observed = await observe(async () => {
      upload(once, new Float32Array(8));
      program.run();
      program.run();
    }, { each });
    assert.equal(await readFloats(sum), expected);
    assert.is(observed.dispatches, 6);
    assert.is(observed.copies, 2, 'of the sum; what the product reads has not changed');
    assert.is(observed.submits, 2);
    assert.is(observed.uploaded, 32);
    if (observed.times.length === 0) continue; // a device without timestamps
    const kernels = byKernel(observed.times, 2);
    assert.equal(kernels.map(({ kernel, dispatches }) => `${kernel} ${dispatches}`).sort(), each ? ['add 2', 'matmul 1'] : ['pass 1']);
    assert.ok(kernels.every(({ ms }) => ms > 0));
  }
  program.run(); // nothing is watched any longer
  assert.equal(await readFloats(sum), expected);
});

test('kernels: a line each with its rate; --against gives ratios to an earlier run of the same shape', async () => {
  const lines = await bench('gemm_nt', 'attention_backward', 'adamw');
  assert.equal([...new Set(lines.map(({ name }) => name))], ['gemm_nt', 'attention_backward', 'adamw']);
  lines.forEach(checkLine);
  const { shape, ms, gflops } = lines[0];
  assert.ok(Math.abs((2 * shape.M * shape.N * shape.K) / ms / 1e6 / gflops - 1) < 2e-3);

  const earlier = lines.filter(({ name }) => name === 'adamw').map((line) => ({ ...line, ms: 1e6 }));
  writeFileSync(rlhf.path('earlier.jsonl'), earlier.map((line) => `${JSON.stringify(line)}\n`).join(''));
  const [again] = await bench('adamw', '--against', 'earlier.jsonl');
  assert.ok(Math.abs((again.ratio * again.ms) / 1e6 - 1) < 2e-3, `${again.ratio} for ${again.ms} ms`);
});

test('kernels of a size of one’s own', async () => {
  const lines = await bench('gemm:24x20x12', 'attention_forward:2x10x4x8x2', 'attention_backward:1x9x2x6', 'cross_entropy:20x12x36', 'adamw:100', 'tfjs_nt:24x20x12');
  lines.forEach(checkLine);
  assert.equal(lines.map(({ name, shape }) => [name, ...Object.values(shape)].join(' ')), ['gemm_nn 24 20 12', 'gemm_nt 24 20 12', 'gemm_tn 24 20 12',
    'attention_forward 2 10 4 8 2', 'attention_backward 1 9 2 6', 'cross_entropy 20 12 36', 'adamw 100', 'tfjs_nt 24 20 12']);
  for (const [name, told] of [['gemm:24x20', /"gemm:24x20" is not of the form gemm:MxNxK/], ['gemm_nn:1x0x2', /is not of the form/], ['adamw:', /is not of the form adamw:PARAMETERS/],
    ['attention_forward:2x10x4x8x2x1', /ROWSxTxHEADSxDIM\[xKVHEADS\]/], ['attention_forward:2x10x4x8x3', /4 heads do not share 3/], ['sample:3', /"sample" has no size\nhint: these have: gemm_nn, /]] as const) {
    const { code, stderr } = await rlhf.run(['bench', name]);
    assert.is(code, 2, name);
    assert.match(stderr, told);
  }
});

test('train_step and sample of a given model', async () => {
  await prepareData(rlhf);
  await rlhf.succeed(['pretrain', '--data', 'text.jsonl', '--tokenizer', 'base', '--layers', '1', '--width', '16', '--heads', '2', '--context', '64',
    '--max-steps', '0', '--out', 'longer', '--quiet']);
  const [train, sample] = await bench('--model', 'longer', '--batch', '4', '--length', '16');
  [train, sample].forEach(checkLine);
  assert.equal(train.shape, { model: 'longer', B: 4, T: 16 });
  assert.is(Math.round((train.tokens_per_second * train.ms) / 1000), 64);
  assert.ok(train.ready_ms > 0 && train.model_bytes >= 16 * train.parameters);
  if (train.kernels) {
    assert.ok(Math.abs(train.kernels.reduce((sum: number, k: any) => sum + k.share, 0) - 1) < 1e-2);
    assert.is(train.kernels.reduce((sum: number, k: any) => sum + k.dispatches, 0), train.dispatches);
    assert.equal(Object.keys(train.gpu_parts_ms), ['forward', 'backward', 'optimiser']);
  }
  assert.equal(sample.shape, { model: 'longer', prompts: 4, new_tokens: 40 });
  assert.is(Math.round((sample.tokens_per_second * sample.ms) / 1000), 160);

  for (const args of [['train_step', '--length', '33'], ['sample']]) { // this model's context has 32 tokens
    const { code, stderr } = await rlhf.run(['bench', '--model', 'base', ...args]);
    assert.is(code, 2, stderr);
    assert.match(stderr, /the context of base has 32 tokens/);
  }
});

test('the fixed models: sampling and a PPO iteration', async () => {
  const lines = await bench('sample', 'ppo_iteration');
  assert.equal(lines.map(({ name }) => name), ['sample', 'ppo_iteration']);
  lines.forEach(checkLine);
  const [{ tokens_per_second: rate, ms }, ppo] = lines;
  assert.is(Math.round((rate * ms) / 1000 / 10), 256);
  const { rollout, score, update } = ppo.parts_ms;
  assert.ok(rollout > 0 && score > 0 && update > 0);
});

test('an unknown name and a file that is no benchmark are refused', async () => {
  const unknown = await rlhf.run(['bench', 'gemv']);
  assert.is(unknown.code, 2);
  assert.match(unknown.stderr, /there is no "gemv"\nhint: there are gemm_nn, /);
  writeFileSync(rlhf.path('other.jsonl'), `${readFileSync(rlhf.path('prompts.jsonl'), 'utf8')}`);
  const other = await rlhf.run(['bench', 'adamw', '--against', 'other.jsonl']);
  assert.is(other.code, 2);
  assert.match(other.stderr, /--against other\.jsonl:1: not a line of rlhf bench/);
});

test.run();
