import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { startBackend } from '../../src/gpu/backend.ts';
import { gpu } from '../../src/gpu/device.ts';
import { selfTest, testsHere } from '../../src/self_test/index.ts';
import { closeAfterTests } from '../gpu/device.ts';

test.after(closeAfterTests);

/** What the self-test says where Dawn adds bounds checks to the kernels or does not, on a device of its own. */
async function outcomes(boundsChecks: boolean | undefined): Promise<string[]> {
  await startBackend({ boundsChecks });
  const lines: string[] = [];
  for await (const { line } of selfTest()) lines.push(line);
  assert.is(lines.length, testsHere().length);
  return lines;
}

test('no kernel leans on Dawn’s bounds checks: without them, as software drivers run it, errors are the same to the last digit', async () => {
  const checked = await outcomes(true);
  const { device } = gpu();
  await closeAfterTests();
  const unchecked = await outcomes(undefined);
  assert.is.not(gpu().device, device);
  assert.equal(unchecked, checked);
  for (const line of unchecked) assert.match(line, /^ok /);
});

test.run();
