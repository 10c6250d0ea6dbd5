// What a software driver calls device memory is the host's: a model must be there once (and its mirrors), with no second copy on the way.
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { gpu } from '../../src/gpu/device.ts';
import { deviceMemory } from '../../src/gpu/memory.ts';
import { readsTextures } from '../../src/gpu/mirror.ts';
import { matmul } from '../../src/gpu/ops/matmul.ts';
import { record } from '../../src/gpu/program.ts';
import { persistent, readFloats, vector } from '../../src/gpu/tensor.ts';
import { FlatParameters } from '../../src/model/flat_parameters.ts';
import { closeAfterTests, openForTests, skip } from '../gpu/device.ts';

await openForTests();
test.after(closeAfterTests);

/** Bytes of device memory that lie in the host's, as far as they have been touched; JavaScript's arrays do not count. */
const touched = (): number => Number(/RssShmem:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))![1]) * 1024;
const MB = 2 ** 20;
/** Two parts of a copy on their way, and some buffers. */
const SLACK = 40 * MB;

const title = 'weights are loaded, mirrored and read back with no second copy of them beside';
if (!gpu().software || !existsSync('/proc/self/status') || touched() === 0) skip(title, 'device memory cannot be seen from outside');
else {
  test(title, async () => {
    const before = touched();
    const [rows, cols] = [8192, 3072];
    const name = 'w';
    const block = { key: name, parts: [{ name, firstRow: 0, rows, firstCol: 0, cols }], rows, cols, stride: cols, decay: true };
    const weights = new FlatParameters([{ name, shape: [rows, cols] }], [block], false);
    let most = 0;
    const look = (): void => { most = Math.max(most, touched() - before); };
    weights.fill((_, from, count) => {
      look();
      return new Float32Array(count).fill(from + 1);
    });
    look();
    await readFloats(vector(4));
    assert.ok(weights.bytes === rows * cols * 4 && touched() - before >= weights.bytes, 'they are there');
    assert.ok(most <= weights.bytes + SLACK, `${most / MB} MB while ${weights.bytes / MB} MB were loaded`);

    const x = persistent(8, cols);
    const y = persistent(8, rows);
    const program = await record(() => matmul('nt', x, weights.get(name).value, y)).ready();
    const textures = deviceMemory().textures;
    const watch = setInterval(look, 2);
    program.run();
    await readFloats(y);
    clearInterval(watch);
    assert.ok(!readsTextures() || textures >= weights.bytes, 'they have a mirror');
    assert.ok(most <= weights.bytes + textures + SLACK, `${most / MB} MB with ${textures / MB} MB of textures`);

    let numbers = 0;
    for (const values of (await weights.save()).values()) numbers += values.length;
    look();
    assert.is(numbers, rows * cols);
    assert.ok(most <= weights.bytes + textures + SLACK, `${most / MB} MB when they had been read`);
    weights.dispose();
  });
}

test.run();
