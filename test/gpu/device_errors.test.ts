import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { RunError } from '../../src/errors.ts';
import { startBackend } from '../../src/gpu/backend.ts';
import { checkDevice, closeDevice, gpu, openDevice } from '../../src/gpu/device.ts';
import { kernel } from '../../src/gpu/kernel.ts';
import { addInto } from '../../src/gpu/tape.ts';
import { record } from '../../src/gpu/program.ts';
import { column, openForTests } from './device.ts';

// Each test spoils its device: a run that goes on after a dropped submission would train on zeros.
test.before.each(openForTests);
test.after.each(closeDevice);

const failure = (work: () => unknown): RunError => {
  try {
    work();
  } catch (error) {
    assert.instance(error, RunError);
    return error as RunError;
  }
  throw new Error('nothing was thrown');
};

test('wrong WGSL: the error names the kernel and its constants, and the device counts as failed', async () => {
  const broken = kernel('broken', '@compute @workgroup_size(1)\nfn main() { let x: u32 = ${VALUE}; }', { VALUE: -3 });
  await broken.form().ready.then(
    () => assert.unreachable('compiled'),
    (error: Error) => assert.match(error.message, /kernel broken .*"VALUE":-3/),
  );
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.match(failure(checkDevice).message, /^GPU error: [^\n]*WGSL[^\n]*$/);
});

test('an invalid command is reported at the next submission at the latest, in one line', async () => {
  const [a, b] = [column([1, 1, 1, 1]), column([1, 1, 1, 1])];
  const step = await record(() => addInto(a, b)).ready();
  const { device } = gpu();
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(a.buffer, 0, b.buffer, 3, 8); // not a multiple of 4
  device.queue.submit([encoder.finish()]);
  await device.queue.onSubmittedWorkDone();
  const error = failure(() => step.run());
  assert.match(error.message, /^GPU error: /);
  assert.not.match(error.message, /\n/);
  assert.is(
    failure(() => step.run()),
    error,
    'and at every one after it',
  );
});

test('a fresh device after a failed one works', async () => {
  assert.is(checkDevice(), undefined);
  const [a, b] = [column([1, 2, 3, 4]), column([1, 1, 1, 1])];
  const step = await record(() => addInto(a, b)).ready();
  step.run();
  assert.is(await openDevice(), gpu());
  assert.is(await startBackend(), gpu());
});

test.run();
