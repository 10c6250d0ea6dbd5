import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { close, passed, relativeError } from '../../src/self_test/check.ts';
import { kernelTests, outcomeOf, selfTest, tally, testsHere } from '../../src/self_test/index.ts';
import { gpu } from '../../src/gpu/device.ts';
import { closeAfterTests, openForTests } from '../gpu/device.ts';
import { ofGpus } from './bounds.ts';

test.before(openForTests);
test.after(closeAfterTests);

test('every kernel of the program passes its own test on this device', async () => {
  const outcomes = [];
  const tests = testsHere().filter(({ name }) => !ofGpus(name)); // gpu_products.test.ts has those
  for await (const outcome of selfTest(tests)) outcomes.push(outcome);
  assert.equal(
    outcomes.filter(({ ok }) => !ok).map(({ line }) => line),
    [],
  );
  assert.is(outcomes.length, tests.length);
  assert.ok(testsHere().some(({ needs }) => !needs), 'f32 is tested on any device');
  for (const { line } of outcomes) assert.match(line, /^ok \w+ \d\.\de[+-]\d+$/);
});

test('what the device lacks features for is left out, and counted apart from what passed and failed', () => {
  const features = gpu().features as Set<string>;
  const has = features.delete('shader-f16');
  try {
    const here = testsHere();
    const left = kernelTests.length - here.length;
    assert.ok(left > 5 && here.length > 5);
    assert.not.ok(here.some(({ name }) => name.endsWith('_f16')));
    const outcomes = here.map(({ name }, i) => ({ ok: i > 1, line: name }));
    assert.is(tally(outcomes), `self-test: ${here.length - 2} passed, 2 failed, ${left} left out (this device has no shader-f16)`);
    features.add('shader-f16');
    assert.is(testsHere().length, kernelTests.length);
    assert.is(tally(outcomes), `self-test: ${here.length - 2} passed, 2 failed`);
  } finally {
    if (has) features.add('shader-f16');
    else features.delete('shader-f16');
  }
});

test('every kernel file is covered', () => {
  const files = readdirSync(join(process.env.RLHF_ROOT!, 'kernels')).filter((name) => name.endsWith('.wgsl'));
  const covered = new Set(kernelTests.flatMap(({ kernels }) => kernels.map((name) => `${name}.wgsl`)));
  assert.equal(
    files.filter((name) => !covered.has(name)),
    [],
  );
  assert.equal(
    [...covered].filter((name) => !files.includes(name)),
    [],
  );
});

test('a kernel that is a little off, not a number, too short or throws fails by name', () => {
  const truth = Float64Array.from({ length: 100 }, (_, i) => Math.sin(i));
  const off = truth.map((x, i) => (i === 3 ? x + 1e-3 : x));
  assert.is(outcomeOf('norm', [close('row', truth, truth)]).line, 'ok norm 0.0e+0');
  assert.match(
    outcomeOf('norm', [close('row', truth, truth), close('row', off, truth)]).line,
    /^FAIL norm: row: error 1\.4e-4, 1\.0e-5 allowed$/,
  );
  assert.not.ok(
    passed(
      close(
        'row',
        truth.map((x, i) => (i === 3 ? NaN : x)),
        truth,
      ),
    ),
  );
  assert.not.ok(passed(close('row', truth.subarray(1), truth)));
  assert.not.ok(passed({ what: 'row', error: NaN, allowed: 1 }));
  assert.not.ok(outcomeOf('norm', []).ok);
  assert.is(outcomeOf('norm', new Error('no pipeline\nmore')).line, 'FAIL norm: no pipeline');
  assert.is(relativeError([0, 0], [0, 0]), 0);
  assert.is(relativeError([0, 1e-9], [0, 0]), Infinity);
});

test.run();
