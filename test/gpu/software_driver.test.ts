import { availableParallelism, getPriority } from 'node:os';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { closeDevice, gpu } from '../../src/gpu/device.ts';
import { openForTests } from './device.ts';

const chosen = process.env.LP_NUM_THREADS;

test.before(openForTests);
test.after(closeDevice);

test('beside a software driver the main thread steps back; on few cores the driver has two threads a core, unless the user said otherwise', () => {
  assert.is(getPriority() > 0, gpu().software);
  const cores = availableParallelism();
  assert.is(process.env.LP_NUM_THREADS, chosen ?? (cores <= 8 ? String(2 * cores) : undefined));
});

test.run();
