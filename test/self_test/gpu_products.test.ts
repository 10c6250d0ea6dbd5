// The self-test's products as GPUs compute them, of which self_test.test.ts and bounds_checks.test.ts leave out what takes long to compile.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { withSubgroup } from '../../src/gpu/device.ts';
import { selfTest, testsHere } from '../../src/self_test/index.ts';
import { matmulTests } from '../../src/self_test/matmul.ts';
import { closeAfterTests } from '../gpu/device.ts';
import { ofGpus, sameWithoutBoundsChecks } from './bounds.ts';

process.env.LP_NATIVE_VECTOR_WIDTH = '128';
test.after(closeAfterTests);

test('tiles and matrix units pass their tests, and lean on no bounds checks', () => sameWithoutBoundsChecks(({ name }) => ofGpus(name)));

test('products and split weight gradients pass the same tests through workgroup memory', () =>
  withSubgroup(0, async () => {
    const outcomes = [];
    for await (const { line } of selfTest(matmulTests)) outcomes.push(line);
    assert.equal(
      outcomes.filter((line) => !line.startsWith('ok ')),
      [],
    );
    assert.is(outcomes.length, testsHere(matmulTests).length);
    assert.ok(outcomes.length >= 1);
  }));

test.run();
