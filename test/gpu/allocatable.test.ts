// How much a GPU's memory can still hold is found by asking for it.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { gpu } from '../../src/gpu/device.ts';
import { allocatable, deviceMemory } from '../../src/gpu/memory.ts';
import { closeAfterTests, openForTests } from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);
const GIB = 2 ** 30;

/** A device with room for so many bytes, which keeps what is destroyed until its queue is waited for. */
function deviceWith(room: number) {
  let [held, let_go, failed, scopes] = [0, 0, false, 0];
  const asked: number[] = [];
  const device = {
    pushErrorScope: () => void scopes++,
    popErrorScope: async () => {
      scopes--;
      const error = failed ? {} : null;
      failed = false;
      return error;
    },
    createBuffer: ({ size }: { size: number }) => {
      const fits = held + size <= room;
      if (fits) held += size;
      else failed = true;
      asked.push(size);
      return { destroy: () => void (fits && (let_go += size)) };
    },
    queue: { onSubmittedWorkDone: async () => void ([held, let_go] = [held - let_go, 0]) },
  };
  return { device: device as unknown as GPUDevice, asked, left: () => [held, scopes] };
}

test('half as much is tried until it fits, and nothing is kept', async () => {
  for (const [room, most, found] of [
    [24 * GIB, 8 * GIB, 8 * GIB],
    [7.5 * GIB, 8 * GIB, 4 * GIB],
    [3.9 * GIB, 8 * GIB, 2 * GIB],
    [0.5 * GIB, 8 * GIB, GIB],
    [6 * GIB, 5.25 * GIB + 7, 5.25 * GIB + 7],
  ]) {
    const { device, asked, left } = deviceWith(room);
    assert.is(await allocatable(device, most, GIB), found, `${room / GIB} GiB`);
    assert.equal(left(), [0, 0]);
    assert.ok(asked.every((size) => size <= GIB / 2 && size % 4 === 0));
  }
});

test('on a device it leaves no trace in what is counted', async () => {
  const before = { ...deviceMemory() };
  assert.is(await allocatable(gpu().device, 2 ** 26, 2 ** 20), 2 ** 26);
  assert.equal({ ...deviceMemory() }, before);
});

test.run();
