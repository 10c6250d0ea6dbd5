// order_slow.test.ts reverses lanes, but 8 that stand side by side still run in lockstep on Mesa's driver, where a GPU may let each of its lanes run
// ahead: here those 8 are from all over the workgroup, and lanes that work side by side run one after the other. (With vectors of 128 bits the driver
// runs 4 in lockstep, and compiles in half the time.)
// Attention is left out: all that it writes to workgroup memory lies between two barriers, and the driver takes minutes to compile it so.
process.env.RLHF_GPU_FORMS = '1';
process.env.LP_NATIVE_VECTOR_WIDTH = '128';

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { reorderKernels, scattered } from './reordered.ts';

const changed = reorderKernels(scattered);
await import('./reductions.ts');
await import('./sums.test.ts');

test('the kernels of the tests above ran with their lanes scattered', () => {
  assert.ok(changed() > 40, `${changed()} kernels`);
});

test.run();
