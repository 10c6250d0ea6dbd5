// The forms of kernels for CPUs at 16 lanes, as many as vectors of 512 bits have (with or without such vectors in the processor): other files run
// them at 8. That both give the same bits test/properties/vector_width.test.ts sees.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { adapterName, cpuLanes, gpu } from '../../src/gpu/device.ts';
import { selfTest, testsHere } from '../../src/self_test/index.ts';
import { matmul } from '../../src/gpu/ops/matmul.ts';
import { closeAfterTests, compute, openForTests, seeded, skip } from './device.ts';
import { ofGpus } from '../self_test/bounds.ts';
import { check, MODES, operands, type Size } from './products.ts';

process.env.LP_NATIVE_VECTOR_WIDTH = '512';
await openForTests();
test.after(closeAfterTests);

const NAME = 'at 16 lanes every kernel equals its float64 reference';
if (cpuLanes() !== 16) {
  skip(NAME, `${adapterName(gpu().info)} has no subgroups of 16 lanes`);
} else {
  test(NAME, async () => {
    const lines: string[] = [];
    // Tiles of products and matrix units are for GPUs.
    for await (const { line } of selfTest(testsHere().filter(({ name }) => !ofGpus(name)))) lines.push(line);
    assert.ok(lines.length > 30);
    assert.equal(
      lines.filter((line) => !line.startsWith('ok ')),
      [],
    );
  });

  test('at 16 lanes products of many tiles, which have 64 rows, equal the float64 reference, in panels and outside them', async () => {
    const random = seeded(16);
    const forms = new Set<string>();
    const { device } = gpu();
    const create = device.createShaderModule;
    device.createShaderModule = (descriptor) => {
      forms.add(/"TM":(\d+),"A_WIDTH":(\d+)/.exec(descriptor.label!)?.slice(1).join(' ') ?? '');
      return create.call(device, descriptor);
    };
    for (const size of [[300, 132, 70], [257, 256, 128], [128, 512, 256]] as Size[]) {
      for (const mode of MODES) {
        const { A, B, C, c0, product } = operands(mode, size, random);
        const [sum] = await compute(() => matmul(mode, A, B, C, { kind: 'add', scale: 0.5 }), [C]);
        check(sum, product.map((x, i) => c0[i] + 0.5 * x), size[1], `${mode} ${size}, added`);
        const [plain] = await compute(() => matmul(mode, A, B, C), [C]);
        check(plain, product, size[1], `${mode} ${size}`);
      }
    }
    device.createShaderModule = create;
    assert.equal([...forms].sort(), ['64 0', '64 1024'], 'rows of a tile, texels in a row of a texture (0: panels)');
  });
}

test.run();
