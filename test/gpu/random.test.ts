import { test } from 'uvu';
import * as assert from 'uvu/assert';
import randomSource from '../../kernels/random.wgsl';
import { philox, uniform24 } from '../../src/gpu/ops/random.ts';
import { kernel } from '../../src/gpu/kernel.ts';
import { launch, record } from '../../src/gpu/program.ts';
import { download, persistent } from '../../src/gpu/tensor.ts';
import { closeAfterTests, matrix, openForTests, seeded } from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

// From Random123's known-answer tests: counter, key, result.
const known = [
  [
    [0, 0, 0, 0],
    [0, 0],
    [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
  ],
  [
    [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
    [0xffffffff, 0xffffffff],
    [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
  ],
  [
    [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
    [0xa4093822, 0x299f31d0],
    [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  ],
];

test('the TypeScript Philox gives the published answers', () => {
  for (const [counter, key, result] of known) assert.equal(philox(counter, key), result);
});

test('the kernel gives the same bits and the same uniform numbers', async () => {
  const random = seeded(9);
  const word = (): number => random.below(2 ** 32);
  const counters = [...known.map((k) => k[0]), ...Array.from({ length: 97 }, () => [word(), word(), word(), word()])];
  const keys = [...known.map((k) => k[1]), ...Array.from({ length: 97 }, () => [word(), word()])];
  const bits = persistent(100, 4);
  const uniforms = persistent(100, 4);
  const source = `
@group(0) @binding(0) var<storage, read> counters: array<vec4u>;
@group(0) @binding(1) var<storage, read> keys: array<vec2u>;
@group(0) @binding(2) var<storage, read_write> bits: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> uniforms: array<vec4f>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= 100) { return; }
  let b = philox(counters[id.x], keys[id.x]);
  bits[id.x] = b;
  uniforms[id.x] = vec4f(uniform24(b.x), uniform24(b.y), uniform24(b.z), uniform24(b.w));
}
${randomSource}`;
  const inputs = [matrix(counters.flat(), 4, 'u32'), matrix(keys.flat(), 2, 'u32', 2)];
  const program = await record(() => launch(kernel('philox', source), [...inputs, bits, uniforms], [], [2])).ready();
  program.run();
  const [b, u] = await download(bits, uniforms);
  const expected = counters.flatMap((c, i) => philox(c, keys[i]));
  assert.equal([...new Uint32Array(b)], expected);
  assert.equal([...new Float32Array(u)], expected.map(uniform24));
  assert.is(uniform24(0xffffffff), 1 - 2 ** -24);
});

test.run();
