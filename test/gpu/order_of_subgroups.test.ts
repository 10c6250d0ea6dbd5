// Kernels whose lanes share numbers by subgroup operations, and whose subgroups share them through workgroup memory: the last subgroup of the
// last workgroup first (see order_slow.test.ts), lanes of a subgroup in their order, which the operations need.
process.env.RLHF_GPU_FORMS = 'subgroups';
process.env.LP_NATIVE_VECTOR_WIDTH = '128'; // which takes a third of the time to compile

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { reorderKernels, subgroupsFromBehind } from './reordered.ts';

const LANES = 4; // of Mesa's driver with such vectors; any other has this many or a multiple

const changed = reorderKernels(subgroupsFromBehind(LANES));
await import('./adamw.test.ts');
await import('./reductions.ts');

test('the kernels of the tests above ran with their subgroups from behind', () => {
  assert.ok(changed() > 40, `${changed()} kernels`);
});

test.run();
