// How a step reaches a GPU: in parts, so that none keeps the GPU busy for longer than the system's watchdog allows.
process.env.RLHF_GPU_FORMS = '1';

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { observe } from '../../src/bench/observe.ts';
import { gpu, withGpu } from '../../src/gpu/device.ts';
import { kernel } from '../../src/gpu/kernel.ts';
import { matmul } from '../../src/gpu/ops/matmul.ts';
import { onPaper } from '../../src/gpu/paper.ts';
import { clear, copy, launch, record } from '../../src/gpu/program.ts';
import { persistent, readFloats, type Tensor, vector } from '../../src/gpu/tensor.ts';
import { closeAfterTests, openForTests } from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

const NEXT = `
@group(0) @binding(0) var<storage, read_write> X: array<f32>;
@compute @workgroup_size(1)
fn main() { X[0] = 2 * X[0] + 1; }`;

/** A step that leaves 2·(2·(2·0 + 1) + 1) + 1 = 7 in y only if all of it runs, in order. */
function step(x: Tensor, y: Tensor): void {
  const next = (of: Tensor, work: number): void => launch(kernel('next', NEXT), [of], [], [1], work);
  clear(x);
  next(x, 1.8e11);
  next(x, 1.8e10);
  copy(x, y);
  next(y, 3e12); // alone longer than a part may be
  next(x, 1);
}

test('a step with more work than a submission should hold goes in several, in order; a dispatch is never cut, nor a small step', async () => {
  const [x, y] = [vector(1), vector(1)];
  const program = await record(() => step(x, y)).ready();
  assert.equal(program.cuts, [4, 5]);
  const observed = await observe(async () => program.run(), { each: false });
  assert.is(observed.submits, 3);
  assert.is(observed.dispatches, 4);
  assert.equal([...(await readFloats(x)), ...(await readFloats(y))], [7, 7]);
  assert.equal(record(() => clear(x)).cuts, []);
});

test('a software driver gets every step at once', () => {
  const [x, y] = [vector(1), vector(1)];
  withGpu({ ...gpu(), software: true }, () => assert.equal(record(() => step(x, y)).cuts, []));
});

test('products count by their multiplications, other kernels by what they move', () => {
  const cuts = onPaper(() => {
    const [a, b, c] = [persistent(4096, 4096), persistent(4096, 4096), persistent(4096, 4096)]; // 137 GFLOP a product
    return record(() => {
      matmul('nn', a, b, c);
      matmul('nn', a, b, c);
      for (let i = 0; i < 512; i++) clear(c); // 64 MiB each, 0.2 GFLOP's time
    }).cuts;
  });
  assert.equal([...cuts], [1, 2 + Math.floor((2e11 - 2 * 4096 ** 3) / (3 * 2 ** 26))]);
});

test.run();
