import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { halfToFloat, halvesOf } from '../../src/files/float_formats.ts';
import { openModel } from '../../src/files/model_folder.ts';
import { writeSafetensors } from '../../src/files/safetensors.ts';
import { readFloats } from '../../src/gpu/tensor.ts';
import { packRows, type PackRow } from '../../src/model/batch.ts';
import { Decoder } from '../../src/model/decoder.ts';
import { loadModel, type Model } from '../../src/model/load.ts';
import { Passes } from '../../src/model/passes.ts';
import { Weights } from '../../src/model/weights.ts';
import { attachLora } from '../../src/model/lora.ts';
import { Optimizer } from '../../src/train/optimizer.ts';
import { withSubgroup } from '../../src/gpu/device.ts';
import { assertClose, closeAfterTests, fixture, halfTest, openForTests, relativeError } from '../gpu/device.ts';
import { forward, likelihoodRows, load, realRows, trainer, vectors } from './golden.ts';

await openForTests();
test.after(closeAfterTests);

/** The oracle's batch of a model, as rows whose loss is the mean over its label tokens. */
function labelled(name: string) {
  const oracle = vectors(name);
  return likelihoodRows(realRows(oracle), (b, t) => oracle.labels[b][t] !== -100, oracle.n_label_tokens);
}

/**
 * A stored number is off by 2⁻¹¹ of itself at most, in the mean by a third of that. A layer stores eight tensors on the way
 * to the residual stream, three layers 24, whose errors are independent: √24 · 2⁻¹¹/3 = 8e-4 of the hidden state; these
 * models' large random weights amplify it a few times, since each norm sees what the layers before left.
 */
const FORWARD = 2 ** -8;
/** The gradient passes through the same roundings twice, and hangs on the forward pass's differences too. */
const GRADIENT = 2 ** -5;

async function assertNear(name: string): Promise<void> {
  const batch = labelled(name);
  const [full, half] = [load(name), load(name, { trainable: true, dtype: 'f16' })];
  const [exact, rounded] = [await forward(full, batch), await forward(half, batch)];
  for (const what of ['hidden', 'logits'] as const) {
    const error = relativeError(rounded[what], exact[what]);
    assert.ok(error > 2 ** -14 && error < FORWARD, `${what} of ${name}: ${error}`);
  }
  // What is not trained has no f32 beside it, and the same bits.
  const frozen = load(name, { dtype: 'f16' });
  assert.equal(await forward(frozen, batch), rounded);
  assert.ok(frozen.weights.bytes < 0.56 * load(name, {}).weights.bytes, 'half the bytes, but for vectors');
  const [a, b] = [trainer(full), trainer(half)];
  const [one, other] = [await a.run([batch]), await b.run([batch])];
  assert.ok(Math.abs(other.loss / one.loss - 1) < 1e-3, `loss ${other.loss}, not ${one.loss}`);
  const stats = one.stats[0];
  const off = stats.reduce((most, x, i) => (i % 4 ? most : Math.max(most, Math.abs(x - other.stats[0][i]))), 0);
  assert.ok(off > 0 && off < 0.05, `a log-probability of ${name} is off by ${off}`);
  const [exactly, nearly] = [await a.gradients(), await b.gradients()];
  for (const [tensor, gradient] of exactly) {
    if (gradient.every((x) => Math.abs(x) < 1e-6)) continue; // a bias of keys has no gradient but rounding
    const error = relativeError(nearly.get(tensor)!, gradient);
    assert.ok(error < GRADIENT, `${name}: gradient of ${tensor} is off by ${error}`);
  }
}

for (const name of ['gpt2-tiny', 'llama-tiny', 'qwen2-tiny']) {
  halfTest(`${name}: log-probabilities and gradients in f16 are those in f32, to the rounding of what is stored`, () => assertNear(name));
}
halfTest('qwen2-tiny without subgroups: the same', () => withSubgroup(0, () => assertNear('qwen2-tiny')));

halfTest('layers computed again in the backward pass give the same bits in f16', async () => {
  for (const name of ['gpt2-tiny', 'llama-tiny']) {
    const batch = labelled(name);
    const models = [false, true].map((recompute) => {
      const model = load(name, { trainable: true, dtype: 'f16' });
      model.decoder.recompute = recompute;
      return trainer(model);
    });
    const losses = [];
    for (const { run } of models) losses.push((await run([batch])).loss);
    assert.is(losses[1], losses[0]);
    assert.equal(await models[1].gradients(), await models[0].gradients(), name);
  }
});

/** Losses of `steps` updates on one batch. */
async function train(model: Model, batch: PackRow[], steps: number, lr: number): Promise<number[]> {
  const { run } = trainer(model);
  const optimizer = new Optimizer('adam', model.weights, { adamBeta1: 0.9, adamBeta2: 0.95, adamEps: 1e-8, weightDecay: 0.1, maxGradNorm: 1 });
  const losses: number[] = [];
  for (let step = 1; step <= steps; step++) {
    losses.push((await run([batch])).loss);
    await optimizer.step(step, lr);
  }
  return losses;
}

/** A text, every token of which counts. */
function story(): PackRow[] {
  const ids: number[] = fixture('models/stories260K/reference.json').ids;
  const at = ids.slice(1).map((_, i) => i);
  return [{ ids, at, targets: ids.slice(1), weights: at.map(() => 1 / at.length) }];
}

halfTest('updates too small for f16 add up in the f32 weights, and what passes read follows them', async () => {
  const model = load('llama-tiny', { trainable: true, dtype: 'f16' });
  const before = await model.weights.save();
  const name = 'model.layers.0.mlp.up_proj.weight';
  // Adam moves a weight by lr each step: 2e-6 is less than half a unit in the last place of halves from 0.008 on.
  await train(model, labelled('llama-tiny'), 1, 2e-6);
  const after = (await model.weights.save()).get(name)!;
  const large = [...before.get(name)!.entries()].filter(([, x]) => Math.abs(x) > 0.01);
  assert.ok(large.length > 100);
  assert.ok(large.filter(([i, x]) => after[i] !== x).length > 0.9 * large.length, 'f32 weights move');
  await train(model, labelled('llama-tiny'), 20, 1e-3);
  for (const { values, half } of model.weights.chunks) {
    const expected = Float32Array.from(halvesOf((await readFloats(values)).subarray(0, half!.rows)), halfToFloat);
    assert.equal(await readFloats(half!), expected);
  }
});

for (const [name, batch, lr] of [['gpt2-tiny', () => labelled('gpt2-tiny'), 1e-3], ['stories260K', story, 1e-4]] as const) {
  halfTest(`${name}: twenty steps in f16 follow the loss of f32`, async () => {
    const full = await train(load(name), batch(), 20, lr);
    const half = await train(load(name, { trainable: true, dtype: 'f16' }), batch(), 20, lr);
    assert.ok(full[19] < 0.1 * full[0], `something is learnt: ${full}`);
    // The loss of one forward pass is off by less than 1e-3 of itself, and what the rounding does to the steps adds no more.
    full.forEach((loss, i) => assert.ok(Math.abs(half[i] - loss) < 1e-3 * Math.max(1, loss), `step ${i + 1}: ${half[i]}, not ${loss}`));
    assert.not.equal(half, full);
  });
}

halfTest('an adapter on f16 weights is f32: its gradients are near those on f32 weights', async () => {
  const batch = labelled('llama-tiny');
  const gradients = [];
  for (const dtype of ['f32', 'f16'] as const) {
    const model = load('llama-tiny', { dtype });
    const lora = attachLora(model, { rank: 2, alpha: 4, targets: ['all-linear'], seed: 1 });
    assert.ok(lora.chunks.every(({ values, half }) => values.storage === 'f32' && !half));
    const { run } = trainer({ ...model, weights: lora } as never);
    await run([batch]);
    gradients.push(await lora.save(lora.chunks.map((c) => c.gradients!)));
  }
  for (const [tensor, gradient] of gradients[0]) {
    if (tensor.includes('lora_A')) continue; // zero as long as B is
    const error = relativeError(gradients[1].get(tensor)!, gradient);
    assert.ok(error > 0 && error < GRADIENT, `${tensor} is off by ${error}`);
  }
});

halfTest('a table in slices gives the bits of the whole one, trained or not', async () => {
  const dir = join(process.env.RLHF_ROOT!, 'test/fixtures/models/stories260K');
  const batch = packRows(story(), load('stories260K', {}).config);
  // The table of 512 × 64 exceeds these limits, all other matrices are smaller.
  for (const [trainable, limit] of [[false, 50_000], [true, 100_000]] as const) {
    const whole = load('stories260K', { trainable, dtype: 'f16' });
    const weights = new Weights(whole.config, 'lm', trainable, 'f16', limit);
    const folder = openModel(dir);
    weights.load((name) => folder.read(name));
    folder.close();
    const sliced = { ...whole, weights, decoder: new Decoder(whole.config, weights) };
    assert.ok(sliced.decoder.unembedding.slices!.length > 1);
    const statsOf = async ({ decoder }: Model): Promise<Float32Array> => readFloats((await new Passes(decoder).run(batch)).stats);
    assert.equal(await statsOf(sliced), await statsOf(whole));
    if (!trainable) continue;
    const [one, other] = [trainer(whole), trainer(sliced)];
    await one.run([story()]);
    await other.run([story()]);
    const expected = await one.gradients();
    // A gradient of hidden states is summed over the slices: in another order.
    for (const [name, gradient] of await other.gradients()) assertClose(gradient, expected.get(name)!, name, 1e-5);
  }
});

test('a weight beyond f16 is refused by name', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'rlhf-f16-'));
  try {
    const from = join(process.env.RLHF_ROOT!, 'test/fixtures/models/llama-tiny');
    cpSync(from, dir, { recursive: true });
    const folder = openModel(from, { kind: 'any' });
    const name = 'model.layers.1.mlp.down_proj.weight';
    const model = load('llama-tiny', {});
    const tensors = model.weights.plan.map(({ name: tensor, shape }) => ({ name: tensor, shape, data: folder.read(tensor) }));
    folder.close();
    tensors.find((t) => t.name === name)!.data[5] = -70000;
    await writeSafetensors(join(dir, 'model.safetensors'), tensors);
    assert.is(loadModel(dir).weights.storage, 'f32');
    assert.throws(() => loadModel(dir, { dtype: 'f16' }), /^--dtype f16: model\.layers\.1\.mlp\.down_proj\.weight holds -70000, and f16 ends at 65504$/);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test.run();
