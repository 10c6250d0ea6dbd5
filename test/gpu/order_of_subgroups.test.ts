// Kernels whose lanes share numbers by subgroup operations, and whose subgroups share them through workgroup memory: the last subgroup of the
// last workgroup first (see order_slow.test.ts), lanes of a subgroup in their order, which the operations need.
process.env.RLHF_GPU_FORMS = 'subgroups';

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { reorderKernels, subgroupsFromBehind } from './reordered.ts';

const LANES = 8; // of Mesa's driver; any other has this many or a multiple

const changed = reorderKernels(subgroupsFromBehind(LANES));
await import('./adamw.test.ts');
await import('./reductions.ts');

test('the kernels of the tests above ran with their subgroups from behind', () => {
  assert.ok(changed() > 40, `${changed()} kernels`);
});

test.run();
