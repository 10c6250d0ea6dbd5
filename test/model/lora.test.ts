import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { UsageError } from '../../src/errors.ts';
import { adapterTensorName, addUpdate, outIn, type LowRankUpdate } from '../../src/files/adapter.ts';
import { openModel, writeModel } from '../../src/files/model_folder.ts';
import { openSafetensors } from '../../src/files/safetensors.ts';
import { clear, runOnce } from '../../src/gpu/program.ts';
import { persistent, readFloats, upload } from '../../src/gpu/tensor.ts';
import { packRows, type PackRow } from '../../src/model/batch.ts';
import type { PlannedTensor } from '../../src/model/config.ts';
import { loadModel, onSameWeights, type Model } from '../../src/model/load.ts';
import { attachLora, LoraWeights, saveLora } from '../../src/model/lora.ts';
import { likelihood, Passes } from '../../src/model/passes.ts';
import { Scorer } from '../../src/stages/judge.ts';
import { Optimizer } from '../../src/train/optimizer.ts';
import { MODELS, temporaryFolder } from '../files/temporary.ts';
import { assertClose, closeAfterTests, fixture, openForTests, seeded } from '../gpu/device.ts';

const dir = temporaryFolder();
test.before(openForTests);
test.after(closeAfterTests);

interface Vectors { input_ids: number[][]; attention_mask: number[][]; labels: number[][]; n_label_tokens: number; loss: number }

/** The oracle's batch as rows without padding; the weights make the sum of losses their mean. */
function rowsOf(v: Vectors): PackRow[] {
  return v.input_ids.map((ids, r) => {
    const real = ids.map((_, t) => t).filter((t) => v.attention_mask[r][t] === 1);
    const picks = real.map((_, i) => i).filter((i) => i > 0 && v.labels[r][real[i]] >= 0);
    return {
      ids: real.map((t) => ids[t]),
      at: picks.map((i) => i - 1),
      targets: picks.map((i) => ids[real[i]]),
      weights: picks.map(() => 1 / v.n_label_tokens),
    };
  });
}

/** Values for every A and B, small enough that the oracle's weights minus their product are exact to float32 rounding. */
function drawn(lora: LoraWeights, seed: number): Map<string, Float32Array> {
  const { normals } = seeded(seed);
  const pairs = lora.plan.filter(({ name }) => name.includes('.lora_'));
  return new Map(pairs.map(({ name, shape }) => [name, normals(shape[0] * shape[1], 0.1)]));
}

function updateOf(planned: PlannedTensor, values: Map<string, Float32Array>, lora: LoraWeights, sign: number): LowRankUpdate | undefined {
  const [a, b] = [values.get(adapterTensorName(planned.name, 'A')), values.get(adapterTensorName(planned.name, 'B'))];
  return a && b && { rank: lora.rank, scale: (sign * lora.alpha) / lora.rank, a, b };
}

/** A model whose weights are the oracle's minus an adapter's product: with the adapter on it is the oracle's model. */
function underneath(name: string, settings: { rank: number; alpha: number; targets?: string[] }) {
  const model = loadModel(join(MODELS, name));
  const lora = attachLora(model, { ...settings, seed: 0 });
  const values = drawn(lora, 3);
  const folder = openModel(join(MODELS, name));
  const planned = new Map(model.weights.plan.map((t) => [t.name, t]));
  model.weights.load((tensor) => {
    const w = folder.read(tensor);
    const update = updateOf(planned.get(tensor)!, values, lora, -1);
    if (update) addUpdate(w, 0, planned.get(tensor)!, update);
    return w;
  });
  lora.load((tensor) => values.get(tensor) ?? folder.read('score.weight'));
  folder.close();
  return { model, lora, values };
}

/** Runs the mean negative log-likelihood forward and backward; the gradients are added to the adapter's. */
async function likelihoodPass(model: Model, rows: PackRow[], training: boolean) {
  const totals = persistent(2, 4);
  const passes = new Passes(model.decoder, training ? { training, objective: likelihood(totals) } : {});
  const batch = packRows(rows, model.config);
  const pass = await passes.run(batch);
  const stats = await readFloats(pass.stats);
  return { logprobs: Array.from({ length: batch.picks }, (_, m) => stats[4 * m]), loss: -(await readFloats(totals))[0] };
}

/** In float64, from the gradient of the whole matrix W += s·B·A: dA = s·Bᵀ·dW and dB = s·dW·Aᵀ (dW as [out, in]). */
function adapterGradients(planned: PlannedTensor, dW: Float32Array, { rank, scale, a, b }: LowRankUpdate) {
  const [out, input] = outIn(planned);
  const at = (o: number, i: number): number => (planned.layout === 'in_out' ? dW[i * out + o] : dW[o * input + i]);
  const dA = new Float64Array(rank * input);
  const dB = new Float64Array(out * rank);
  for (let o = 0; o < out; o++) {
    for (let i = 0; i < input; i++) {
      for (let k = 0; k < rank; k++) {
        dA[k * input + i] += scale * b[o * rank + k] * at(o, i);
        dB[o * rank + k] += scale * a[k * input + i] * at(o, i);
      }
    }
  }
  return { dA, dB };
}

const CASES: { name: string; rank: number; alpha: number; targets?: string[] }[] = [
  { name: 'llama-tiny', rank: 3, alpha: 6, targets: ['all-linear'] },
  { name: 'llama-tiny', rank: 4, alpha: 1, targets: ['v_proj', 'up_proj'] },
  { name: 'qwen2-tiny', rank: 2, alpha: 3 },
  { name: 'qwen2-tiny', rank: 5, alpha: 5, targets: ['q_proj', 'v_proj', 'gate_proj', 'down_proj'] },
  { name: 'gpt2-tiny', rank: 3, alpha: 2, targets: ['all-linear'] },
  { name: 'gpt2-tiny', rank: 2, alpha: 7, targets: ['c_attn', 'mlp.c_proj'] },
  { name: 'gpt2-tiny', rank: 1, alpha: 1, targets: ['c_fc'] },
];

for (const { name, ...settings } of CASES) {
  const title = `${name}, rank ${settings.rank}, ${settings.targets?.join(' ') ?? 'default targets'}`;
  test(`${title}: weights plus adapter have PyTorch's loss, and the gradients that follow from its own`, async () => {
    const { model, lora, values } = underneath(name, settings);
    const vectors = fixture(`models/${name}/oracle/vectors.json`) as Vectors;
    const { loss } = await likelihoodPass(model, rowsOf(vectors), true);
    assert.ok(Math.abs(loss - vectors.loss) <= 1e-5 * vectors.loss, `loss ${loss} for ${vectors.loss}`);
    const gradients = await lora.save(lora.chunks.map((c) => c.gradients!));
    const expected = openSafetensors(join(MODELS, name, 'oracle', 'grads.safetensors'));
    let checked = 0;
    for (const planned of model.weights.plan) {
      const update = updateOf(planned, values, lora, 1);
      if (!update) continue;
      const { dA, dB } = adapterGradients(planned, expected.read(planned.name), update);
      // The sums over a matrix' rows cancel: 1e-4 of the norm is what its own gradient is allowed, entry by entry.
      assertClose(gradients.get(adapterTensorName(planned.name, 'A'))!, dA, `dA of ${planned.name}`, 2e-4);
      assertClose(gradients.get(adapterTensorName(planned.name, 'B'))!, dB, `dB of ${planned.name}`, 2e-4);
      checked++;
    }
    expected.close();
    assert.is(checked * 2, lora.plan.length);
    // Outside the blocks of fused matrices nothing has a gradient: the norm counts parameters only.
    let inside = 0;
    for (const g of gradients.values()) for (const x of g) inside += x * x;
    let all = 0;
    for (const { gradients: flat } of lora.chunks) for (const x of await readFloats(flat!)) all += x * x;
    assert.ok(Math.abs(all - inside) <= 1e-12 * inside, `${all - inside} outside the blocks`);
  });
}

test('a fresh adapter changes no bit, and taking it off gives the weights alone', async () => {
  for (const name of ['llama-tiny', 'gpt2-tiny']) {
    const rows = rowsOf(fixture(`models/${name}/oracle/vectors.json`) as Vectors);
    const model = loadModel(join(MODELS, name));
    const plain = await likelihoodPass(model, rows, false);
    const lora = attachLora(model, { rank: 4, alpha: 8, targets: ['all-linear'], seed: 1 });
    assert.equal((await likelihoodPass(model, rows, false)).logprobs, plain.logprobs);
    const values = drawn(lora, 9);
    lora.load((tensor) => values.get(tensor)!);
    assert.not.equal((await likelihoodPass(model, rows, false)).logprobs, plain.logprobs);
    const reference = { ...model, decoder: model.decoder.withoutAdapter() };
    assert.equal((await likelihoodPass(reference, rows, false)).logprobs, plain.logprobs);
    model.decoder.adapter = undefined;
    assert.equal((await likelihoodPass(model, rows, false)).logprobs, plain.logprobs);
  }
});

test('a value model on the reward model\'s weights: begins as one of its own would, and leaves the rewards as they are', async () => {
  const rows = [[5, 9, 12, 7], [3, 4], [8, 8, 1]];
  const settings = { rank: 4, alpha: 8, targets: ['all-linear'], seed: 1 };
  for (const name of ['llama-rm-tiny', 'gpt2-rm-tiny']) {
    const folder = join(dir, `${name}-gain`);
    cpSync(join(MODELS, name), folder, { recursive: true });
    const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as Record<string, unknown>;
    writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, rlhf: { reward_gain: 2.7, reward_bias: -0.4 } }));
    const reward = loadModel(folder, { kind: 'reward' });
    const rewards = await new Scorer(reward).scores(rows);
    const own = loadModel(folder, { kind: 'reward', foldGain: true });
    const ownAdapter = attachLora(own, settings);
    const { model: value, head } = onSameWeights(reward);
    const adapter = attachLora(value, settings);
    upload(adapter.get('score.weight').value, head);
    assert.is(value.weights, reward.weights);
    assert.equal([...await adapter.save()], [...await ownAdapter.save()]);
    assert.equal(await new Scorer(value).scores(rows), await new Scorer(own).scores(rows));
    const values = drawn(adapter, 9);
    adapter.load((tensor) => values.get(tensor) ?? head);
    assert.not.equal(await new Scorer(value).scores(rows), await new Scorer(own).scores(rows));
    assert.equal(await new Scorer(reward).scores(rows), rewards);
    await saveLora(`${folder}-adapter`, value, adapter, folder);
    const again = loadModel(`${folder}-adapter`, { kind: 'reward' });
    assertClose(await new Scorer(again).scores(rows), await new Scorer(value).scores(rows), name);
  }
});

test('A is uniform in ±1/√in and follows from the seed; B is zero', async () => {
  const model = loadModel(join(MODELS, 'llama-tiny'));
  const [one, same, other] = await Promise.all([5, 5, 6].map((seed) => new LoraWeights(model.weights, { rank: 8, alpha: 16, seed }).save()));
  const name = 'base_model.model.model.layers.1.self_attn.k_proj.lora_A.weight';
  assert.equal(one.get(name), same.get(name));
  assert.not.equal(one.get(name), other.get(name));
  const a = one.get(name)!;
  const bound = 1 / Math.sqrt(40);
  assert.ok(a.every((x) => Math.abs(x) <= bound));
  const variance = a.reduce((sum, x) => sum + x * x, 0) / a.length;
  // A uniform's variance is bound²/3; 320 numbers scatter by about 5 %.
  assert.ok(Math.abs(variance / (bound ** 2 / 3) - 1) < 0.25, `variance ${variance}`);
  assert.ok(one.get(name.replace('lora_A', 'lora_B'))!.every((x) => x === 0));
});

test('an optimiser step trains the adapter alone and keeps the blocks apart', async () => {
  const { model, lora } = underneath('llama-tiny', { rank: 3, alpha: 6 });
  const before = await model.weights.save();
  const rows = rowsOf(fixture('models/llama-tiny/oracle/vectors.json') as Vectors);
  const first = (await likelihoodPass(model, rows, true)).loss;
  const settings = { adamBeta1: 0.9, adamBeta2: 0.95, adamEps: 1e-8, weightDecay: 0.1, maxGradNorm: 1 };
  await new Optimizer('lora', lora as never, settings).step(1, 1e-2);
  const { loss } = await likelihoodPass(model, rows, false).then(async ({ logprobs }) =>
    ({ loss: -logprobs.reduce((sum, x) => sum + x, 0) / logprobs.length }));
  assert.ok(loss < first - 0.01, `loss ${first} → ${loss}`);
  assert.equal(await model.weights.save(), before);
  const stored = await lora.save();
  lora.load((name) => stored.get(name)!);
  const flat = await readFloats(lora.chunks[0].values);
  let squares = 0;
  for (const values of stored.values()) for (const x of values) squares += x * x;
  assert.ok(Math.abs(flat.reduce((sum, x) => sum + x * x, 0) - squares) < 1e-9 * squares);
});

test('a reward model trains its head with the adapter, and the saved folder scores the same', async () => {
  for (const name of ['llama-rm-tiny', 'gpt2-rm-tiny']) {
    const { model, lora } = underneath(name, { rank: 2, alpha: 4 });
    Object.assign(model, { rewardBias: 0.5 });
    const vectors = fixture(`models/${name}/oracle/vectors.json`) as Vectors & { score_position: number[]; scores: number[] };
    const rows = vectors.input_ids.map((ids, r): PackRow => {
      const real = ids.filter((_, t) => vectors.attention_mask[r][t] === 1);
      return { ids: real, at: [real.length - 1] };
    });
    const score = async (m: Model): Promise<Float32Array> => {
      const pass = await new Passes(m.decoder, { scale: m.scale }).run(packRows(rows, m.config));
      return (await readFloats(pass.scores)).slice(0, rows.length);
    };
    const scores = await score(model);
    assertClose(scores, vectors.scores, 'scores', 0, 2e-4);
    const head = lora.find('score.weight')!;
    assert.is(model.decoder.scalarHead, head);
    await runOnce(() => clear(head.value));
    assert.ok((await score(model)).every((x) => x === 0), 'the head in use is the adapter\'s');
    lora.load(((stored) => (tensor: string) => stored.get(tensor)!)(await restored(lora, name)));

    const base = join(dir, `${name}-base`);
    const weights = await model.weights.save();
    mkdirSync(base);
    await writeModel(base, {
      config: model.config, head: 'reward',
      tensors: model.weights.plan.map(({ name: tensor, shape }) => ({ name: tensor, shape, data: weights.get(tensor)! })),
    });
    const out = join(dir, `${name}-adapter`);
    mkdirSync(out);
    await saveLora(out, model, lora, base);
    const loaded = loadModel(out, { kind: 'reward' });
    assert.is(loaded.rewardBias, 0.5);
    assertClose((await score(loaded)).map((x) => x - 0.5), vectors.scores, 'scores of the saved adapter', 0, 2e-4);
  }
});

/** The adapter's values with the head of the model on disk. */
async function restored(lora: LoraWeights, name: string): Promise<Map<string, Float32Array>> {
  const values = await lora.save();
  const folder = openModel(join(MODELS, name));
  values.set('base_model.model.score.weight', folder.read('score.weight'));
  folder.close();
  return values;
}

test('a target that names no matrix is refused with the names that there are', () => {
  const model = loadModel(join(MODELS, 'gpt2-tiny'));
  const attempt = (targets: string[]) => (): unknown => attachLora(model, { rank: 2, alpha: 2, targets, seed: 0 });
  const named = (text: string) => (error: unknown): boolean => error instanceof UsageError && error.message.includes(text);
  assert.throws(attempt(['c_attn', 'q_proj']), named('--lora-targets: "q_proj"'));
  assert.throws(attempt(['wte']), named('"wte"'));
  assert.throws(attempt(['proj']), named('"proj"'));
  assert.throws(attempt([]), named('names no matrix'));
});

test.run();
