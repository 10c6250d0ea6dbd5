// Kernels as a GPU takes them whose subgroups have a fixed size other than 8, at 16 lanes: as many as Mesa's software driver has where it
// is told of vectors of 512 bits (with or without such vectors in the processor). Products and attention are left out: they are the same
// code at 16 as without subgroups, which other files test, and take minutes to compile. So are tensors of f16: what lanes share is f32.
// cpu_16_lanes.test.ts has the forms for CPUs.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { adapterName, gpu } from '../../src/gpu/device.ts';
import { selfTest, testsHere } from '../../src/self_test/index.ts';
import { closeAfterTests, openForTests, skip } from './device.ts';

process.env.LP_NATIVE_VECTOR_WIDTH = '512';
process.env.RLHF_GPU_FORMS = 'subgroups';
await openForTests();
test.after(closeAfterTests);

const { device, info, subgroup } = gpu();
const NAME = 'at 16 lanes every kernel that shares sums, maxima or numbers among the lanes of a subgroup equals its float64 reference';
if (info.subgroupMinSize !== 16 || subgroup !== 16) {
  skip(NAME, `${adapterName(info)} has no subgroups of 16 lanes`);
} else {
  test(NAME, async () => {
    const shared = new Set<string>();
    const create = device.createShaderModule;
    device.createShaderModule = (descriptor) => {
      if (/\bsubgroup(Add|Max|Shuffle|ShuffleXor|Broadcast)\(/.test(descriptor.code)) shared.add(descriptor.label!.split(' ')[0]);
      return create.call(device, descriptor);
    };
    const tests = testsHere().filter(({ name }) => !/^(matmul|low_rank|attention$)|_f16$/.test(name));
    const lines: string[] = [];
    for await (const { line } of selfTest(tests)) lines.push(line);
    assert.is(lines.length, tests.length);
    assert.equal(
      lines.filter((line) => !line.startsWith('ok ')),
      [],
    );
    const kernels = ['attention_decode', 'gradient_norm', 'norm', 'norm_grad', 'ppo_policy_objective', 'ranking_loss', 'sampler', 'scalar_head', 'token_logprob'];
    assert.equal(
      kernels.filter((name) => !shared.has(name)),
      [],
      `kernels that share among lanes: ${[...shared]}`,
    );
  });
}

test.run();
