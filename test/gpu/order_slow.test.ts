// A CPU runs a workgroup's lanes in order from one barrier to the next, and workgroups in order: a lane that reads what a later one will
// have overwritten, or what an earlier one happens to have written without a barrier between, would never be noticed here, and on a GPU now
// and then. So the kernels' tests are repeated in the forms for GPUs, from behind. A software driver takes eight minutes to compile these
// anew: they run only where RLHF_SLOW_TESTS is set; order_scattered.test.ts and order_of_subgroups.test.ts always do.
process.env.RLHF_GPU_FORMS = '1';

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { skip } from './device.ts';
import { reorderKernels, testsOfKernels } from './reordered.ts';

if (process.env.RLHF_SLOW_TESTS) {
  const changed = reorderKernels();
  await import('./matmul_forms.test.ts'); // opens the device as it is read, so it comes first
  await import('./bias_gradient.test.ts');
  await import('./adamw.test.ts');
  await import('./dropout.test.ts');
  await import('./ema.test.ts');
  await import('./gather.test.ts');
  await import('./many_rows.test.ts');
  await import('./rotary.test.ts');
  await import('./attention.test.ts');
  await import('./column_sum.test.ts');
  await import('./reductions.ts');
  await import('./embedding.test.ts');
  await import('./sums.test.ts');
  await import('./swiglu.test.ts');
  testsOfKernels(/^(low_rank|half|add|decode_state)|^(?!matmul|attention_f16).*_f16$/); // no file above has these
  test('the kernels of the tests above ran from behind', () => {
    assert.ok(changed() > 60, `${changed()} kernels`);
  });
} else {
  skip('all kernels from behind', 'RLHF_SLOW_TESTS=1 runs them: they take minutes to compile');
}

test.run();
