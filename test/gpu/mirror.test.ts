// Textures that mirror operands, on drivers that read them: how many bytes there are, and that they go with their tensors.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { deviceMemory } from '../../src/gpu/memory.ts';
import { readsTextures } from '../../src/gpu/mirror.ts';
import { matmul } from '../../src/gpu/ops/matmul.ts';
import { copyWeightsInPassing, record } from '../../src/gpu/program.ts';
import { destroy, persistent, readFloats, upload } from '../../src/gpu/tensor.ts';
import { packRows } from '../../src/model/batch.ts';
import { newModel } from '../../src/model/load.ts';
import { Passes } from '../../src/model/passes.ts';
import { matmulOf } from '../../src/self_test/reference/matmul.ts';
import { assertClose, closeAfterTests, halfTest, openForTests, seeded } from './device.ts';

await openForTests();
test.after(closeAfterTests);

/** Each storage, and how its tests are declared. */
const STORAGES = [['f32', test], ['f16', halfTest]] as const;
const textures = (): number => deviceMemory().textures;

for (const [storage, declare] of STORAGES) {
  declare(`${storage}: a destroyed tensor gives its mirror back at once, and others keep theirs`, async () => {
    const before = textures();
    const [m, n, k] = [64, 130, 96];
    const random = seeded(61);
    const fine = (count: number): Float32Array => random.normals(count).map((x) => Math.round(x * 64) / 64); // exact in f16
    const [a, b] = [fine(m * k), fine(n * k)];
    const [A, B, C] = [persistent(m, k, k, storage), persistent(n, k, k, storage), persistent(m, n)];
    upload(A, a);
    upload(B, b);
    const product = async (): Promise<Float32Array> => {
      (await record(() => matmul('nt', A, B, C)).ready()).run();
      return readFloats(C);
    };
    const first = await product();
    assertClose(first, matmulOf('nt', a, b, m, n, k), 'product', 2e-6);
    const one = textures() - before;
    if (!readsTextures()) return assert.is(one, 0);
    assert.ok(one >= (m + n) * k * (storage === 'f16' ? 2 : 4), `${one} bytes for both operands`);
    await product();
    assert.is(textures() - before, one, 'a second step reads the same mirrors');

    // A view frees what it is a view of; the work submitted before still ends well.
    const other = persistent(m, k, k, storage);
    upload(other, a);
    const program = await record(() => matmul('nt', other, B, C)).ready();
    assert.ok(textures() - before > one);
    program.run();
    destroy(other.rowRange(0, 1));
    assert.is(textures() - before, one);
    assert.equal(await readFloats(C), first);
    upload(B, b.map((x) => 2 * x)); // B's mirror is there, and copied anew
    assert.equal(await product(), first.map((x) => 2 * x));
    destroy(A, B, C);
    assert.is(textures(), before);
    destroy(A);
    assert.is(textures(), before, 'twice does no harm');
  });
}

for (const [storage, declare] of STORAGES) {
  declare(`${storage}: models that come and go leave no mirrors behind`, async () => {
    const config = {
      family: 'llama', vocabSize: 300, width: 32, layers: 2, heads: 2, kvHeads: 2, headDim: 16, hidden: 64, context: 256, norm: 'rms',
      normEps: 1e-5, positions: 'rope', ropeTheta: 10000, activation: 'silu', gated: true, bias: { qkv: false, attnOut: false, mlp: false },
      tied: true, bosId: 0, eosId: 1, padId: 2, initializerRange: 0.02,
    } as const;
    const ids = Int32Array.from({ length: 40 }, (_, i) => (i * 31) % 300);
    const run = async (): Promise<{ during: number; after: number }> => {
      const { decoder, weights } = newModel(config, 0, false, 'lm', storage);
      const pass = await new Passes(decoder).run(packRows([{ ids, at: [38], targets: [ids[39]!], key: 0 }], config));
      assert.ok((await readFloats(pass.stats)).every(Number.isFinite));
      const during = textures();
      weights.dispose();
      return { during, after: textures() };
    };
    const first = await run(); // leaves the textures that steps share
    if (readsTextures()) assert.ok(first.during > first.after);
    assert.equal(await run(), first);
  });
}

test('large weights that a step copies in passing have no mirror of their own, and its products are the same', async () => {
  const [m, n, k] = [64, 4352, 256];
  const random = seeded(62);
  const [A, B, C] = [persistent(m, k), persistent(n, k), persistent(m, n)];
  upload(A, random.normals(m * k));
  upload(B, random.normals(n * k));
  const product = async (passing: boolean): Promise<Float32Array> => {
    (await record(() => {
      if (passing) copyWeightsInPassing();
      matmul('nt', A, B, C);
    }).ready()).run();
    return readFloats(C);
  };
  const before = textures();
  await product(true);
  const passing = textures();
  const found = await product(true);
  assert.is(textures(), passing, 'the texture serves the next step');
  upload(B, (await readFloats(B)).map((x) => 2 * x));
  assert.equal(await product(true), found.map((x) => 2 * x), 'what is read is always fresh');
  assert.equal(await product(false), await product(true));
  if (!readsTextures()) return assert.is(textures(), before);
  assert.ok(passing - before >= n * k * 4 && textures() - passing >= n * k * 4, 'one mirror is shared, the other B’s own');
  const all = textures();
  destroy(A, B, C);
  assert.ok(all - textures() >= (n + m) * k * 4, 'B’s own and A’s, which is small, go with them');
});

test.run();
