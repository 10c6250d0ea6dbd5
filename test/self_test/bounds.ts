import * as assert from 'uvu/assert';
import { startBackend } from '../../src/gpu/backend.ts';
import { gpu } from '../../src/gpu/device.ts';
import type { KernelTest } from '../../src/self_test/check.ts';
import { selfTest, testsHere } from '../../src/self_test/index.ts';
import { closeAfterTests } from '../gpu/device.ts';

/** Tests of products as GPUs alone compute them: the same with vectors of any width, so they run with narrow ones, which compile in a third of the time. */
export const ofGpus = (name: string): boolean => /^matmul_(tiles|subgroup_matrix)$/.test(name);

/** What these tests say where Dawn adds bounds checks to the kernels or does not, on a device of its own. */
async function outcomes(which: (test: KernelTest) => boolean, boundsChecks: boolean | undefined): Promise<string[]> {
  await startBackend({ boundsChecks });
  const tests = testsHere().filter(which);
  const lines: string[] = [];
  for await (const { line } of selfTest(tests)) lines.push(line);
  assert.is(lines.length, tests.length);
  assert.ok(lines.length > 0);
  return lines;
}

/** No kernel leans on Dawn’s bounds checks: without them, as software drivers run it, errors are the same to the last digit. */
export async function sameWithoutBoundsChecks(which: (test: KernelTest) => boolean): Promise<void> {
  const checked = await outcomes(which, true);
  const { device } = gpu();
  await closeAfterTests();
  const unchecked = await outcomes(which, undefined);
  assert.is.not(gpu().device, device);
  assert.equal(unchecked, checked);
  for (const line of unchecked) assert.match(line, /^ok /);
}
