// Llama 3's rotary scaling through the factors that GGUF keeps of it.
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { exportGguf } from '../../src/files/gguf_export.ts';
import { importGguf } from '../../src/files/gguf_import.ts';
import { llama3Scaling, rotaryFactors, type Llama3Scaling } from '../../src/files/gguf_rotary.ts';
import { openModel } from '../../src/files/model_folder.ts';
import { SHAPES, writeRandomModel } from './random_model.ts';
import { temporaryFolder } from './temporary.ts';

const dir = temporaryFolder();
const llama3 = (factor: number, originalContext: number, lowFreqFactor = 1, highFreqFactor = 4): Llama3Scaling =>
  ({ kind: 'llama3', factor, lowFreqFactor, highFreqFactor, originalContext });

test('the published scalings are found exactly', () => {
  // Llama 3.1 (heads of 128), 3.2 1B (64) and 3B (128).
  for (const [headDim, scaling] of [[128, llama3(8, 8192)], [64, llama3(32, 8192)], [128, llama3(32, 8192)]] as const) {
    assert.equal(llama3Scaling(rotaryFactors(headDim, 5e5, scaling), headDim, 5e5), scaling);
  }
});

test('others give the same factors, whatever numbers stand for them', () => {
  // Low 2 and high 6 for 4096 are low 1 and high 3 for 2048.
  assert.equal(llama3Scaling(rotaryFactors(64, 1e4, llama3(4, 4096, 2, 6)), 64, 1e4), llama3(4, 2048, 1, 3));
  // One factor in between, and none: the published ratio of 4 is taken.
  assert.equal(llama3Scaling(rotaryFactors(8, 5e5, llama3(8, 16)), 8, 5e5), llama3(8, 16));
  const none = rotaryFactors(8, 1e4, llama3(8, 32));
  assert.equal([...none], [1, 8, 8, 8]);
  const found = llama3Scaling(none, 8, 1e4)!;
  assert.equal(rotaryFactors(8, 1e4, found), none);
});

test('factors of another form, or for other heads, are none of Llama 3', () => {
  const good = rotaryFactors(64, 5e5, llama3(32, 8192));
  assert.is(llama3Scaling(good, 128, 5e5), undefined);
  assert.is(llama3Scaling(good.map((f, i) => (i === 20 ? f * 1.01 : f)), 64, 5e5), undefined);
  assert.is(llama3Scaling(Float32Array.from(good).reverse(), 64, 5e5), undefined);
  assert.is(llama3Scaling(Float32Array.from({ length: 32 }, (_, i) => 1 + i), 64, 5e5), undefined, 'as longrope has them');
  for (const odd of [0, -1, NaN, Infinity]) assert.is(llama3Scaling(good.map((f, i) => (i === 3 ? odd : f)), 64, 5e5), undefined, `${odd}`);
});

test('a model with scaling comes back from GGUF with it; factors of 1 are no scaling', async () => {
  const scaling = { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 64 };
  const shape = { ...SHAPES['llama'], head_dim: 32, rope_theta: 1000, rope_scaling: scaling };
  const roundTrip = async (name: string, rope: object) => {
    const [from, path] = [join(dir, name), join(dir, `${name}.gguf`)];
    const config = await writeRandomModel(from, { ...shape, ...rope });
    const model = openModel(from);
    await exportGguf(model, from, path, 'f32');
    model.close();
    return { config, back: await importGguf(path, join(dir, `${name}-back`)) };
  };
  const { config, back } = await roundTrip('llama3', {});
  assert.equal(config.ropeScaling, llama3(8, 64));
  assert.equal(back.ropeScaling, config.ropeScaling);
  assert.equal(openModel(join(dir, 'llama3-back')).config.ropeScaling, config.ropeScaling);
  const plain = await roundTrip('plain', { rope_scaling: { ...scaling, factor: 1 } });
  assert.is(plain.back.ropeScaling, undefined);
});

test.run();
