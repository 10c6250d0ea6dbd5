import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { UsageError } from '../../src/errors.ts';
import { startBackend } from '../../src/gpu/backend.ts';
import { adapterName, closeDevice, gpu } from '../../src/gpu/device.ts';
import { openSession } from '../../src/train/session.ts';
import { recordingContext } from '../stages/context.ts';

test.after(closeDevice);

test('--dtype f16 on an adapter without shader-f16 is refused, naming both', async () => {
  await startBackend();
  (gpu().features as Set<string>).delete('shader-f16');
  const name = adapterName(gpu().info);
  for (const dtype of ['f32', undefined]) assert.is(await openSession({ dtype }, recordingContext('sample')), gpu());
  await openSession({ dtype: 'f16' }, recordingContext('sample')).then(
    () => assert.unreachable('accepted'),
    (error: Error) => {
      assert.instance(error, UsageError);
      assert.is(error.message, `--dtype f16: ${name} has no shader-f16`);
    },
  );
});

test.run();
