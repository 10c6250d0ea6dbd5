// The products of GPUs, with lanes and workgroups run from behind: see order.test.ts. A file of its own, since their tests open the device first.
process.env.RLHF_GPU_FORMS = '1';

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { reorderKernels, testsOfKernels } from './reordered.ts';

const changed = reorderKernels();
await import('./matmul_forms.test.ts');
await import('./bias_gradient.test.ts');
testsOfKernels(/^low_rank/); // zero_outside_blocks

test('the kernels of the tests above ran from behind', () => {
  assert.ok(changed() > 10, `${changed()} kernels`);
});

test.run();
