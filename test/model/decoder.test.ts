import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { rankingLoss } from '../../src/gpu/ops/ranking_loss.ts';
import { persistent, readFloats } from '../../src/gpu/tensor.ts';
import { packRows } from '../../src/model/batch.ts';
import type { Model } from '../../src/model/load.ts';
import { Passes } from '../../src/model/passes.ts';
import { Optimizer } from '../../src/train/optimizer.ts';
import { withSubgroup } from '../../src/gpu/device.ts';
import { assertClose, closeAfterTests, column, fixture, halfTest, matrix, openForTests } from '../gpu/device.ts';
import { forward, likelihoodRows, load, realRows, tensors, trainer, vectors } from './golden.ts';

await openForTests();
test.after(closeAfterTests);

const LANGUAGE_MODELS = ['gpt2-tiny', 'llama-tiny', 'qwen2-tiny'];

/** Every tensor's gradient to 1e-4 of its norm; tensors without any gradient (a bias of keys) to rounding. */
function assertGradients(
  got: Map<string, Float32Array>,
  expected: (name: string) => ArrayLike<number>,
  model: Model,
  message: string,
): void {
  assert.equal([...got.keys()].sort(), model.weights.plan.map((t) => t.name).sort(), 'every parameter has a gradient');
  for (const [name, values] of got) assertClose(values, expected(name), `${message}: ${name}`, 1e-4, 5e-7);
}

/** The oracle's batch as rows whose loss is the mean over its label tokens. */
function labelled(name: string) {
  const oracle = vectors(name);
  const rows = realRows(oracle);
  return { oracle, rows, batch: likelihoodRows(rows, (b, t) => oracle.labels[b][t] !== -100, oracle.n_label_tokens) };
}

async function assertLogitsAndLogprobs(name: string): Promise<void> {
  const { oracle, rows, batch } = labelled(name);
  const model = load(name, {});
  const { logits } = await forward(model, batch);
  const V = model.config.vocabSize;
  const expected = rows.flatMap(({ places }, b) => places.flatMap((t) => oracle.logits[b][t] as number[]));
  assertClose(logits.subarray(0, expected.length), expected, 'logits', 1e-5);
  assert.ok(
    expected.every((x, i) => Math.abs(logits[i] - x) < 2e-4),
    'every logit to 2e-4',
  );
  assert.is(expected.length % V, 0);
  for (const [key, temperature] of [
    ['logprobs', 1],
    ['logprobs_T0.7', 0.7],
  ] as const) {
    const packed = packRows(batch, model.config);
    const pass = await new Passes(model.decoder, { temperature }).run(packed);
    const stats = await readFloats(pass.stats);
    const wanted = rows.flatMap(({ places }, b) => places.slice(1).map((t) => oracle[key][b][t - 1] as number));
    assert.is(wanted.length, packed.picks);
    assertClose(
      wanted.map((_, m) => stats[4 * m]),
      wanted,
      key,
      1e-5,
    );
  }
}

async function assertLossAndGradients(name: string): Promise<void> {
  const { oracle, batch } = labelled(name);
  const model = load(name);
  const { run, gradients } = trainer(model);
  const grads = tensors(name, 'grads.safetensors');
  for (const split of [[batch], batch.map((row) => [row]), [batch.slice(0, 2), batch.slice(2)]]) {
    const { loss } = await run(split);
    assertClose([loss], [oracle.loss], `loss in ${split.length} passes`, 1e-5);
    const got = await gradients();
    assertGradients(got, grads, model, `${split.length} passes`);
    const norm = Math.sqrt([...got.values()].reduce((sum, g) => sum + g.reduce((s, x) => s + x * x, 0), 0));
    assertClose([norm], [oracle.grad_global_norm], 'global norm', 1e-5);
  }
}

for (const name of LANGUAGE_MODELS) {
  test(`${name}: logits and log-probabilities at two temperatures equal PyTorch’s, whatever the padding`, () =>
    assertLogitsAndLogprobs(name));
  test(`${name}: loss and every gradient equal PyTorch’s in one pass, in a pass a row and in two`, () =>
    assertLossAndGradients(name));

  test(`${name}: three AdamW steps end at PyTorch’s weights`, async () => {
    const { oracle, batch } = labelled(name);
    const model = load(name);
    const { run } = trainer(model);
    const { config, loss_before_each_step_then_after: losses, grad_norm_before_clip: norms } = oracle.adamw3;
    const optimizer = new Optimizer('policy', model.weights, {
      adamBeta1: config.beta1,
      adamBeta2: config.beta2,
      adamEps: config.eps,
      weightDecay: config.weight_decay,
      maxGradNorm: config.clip_grad_norm,
    });
    for (let step = 0; step < 3; step++) {
      assertClose([(await run([batch])).loss], [losses[step]], `loss before step ${step + 1}`, 2e-5);
      await optimizer.step(step + 1, config.lr);
      assertClose([(await readFloats(optimizer.norm))[0]], [norms[step]], 'gradient norm', 5e-5);
    }
    assertClose([(await run([batch])).loss], [losses[3]], 'loss after', 2e-5);
    const after = tensors(name, 'after3.safetensors');
    for (const [tensor, values] of await model.weights.save()) {
      const expected = after(tensor);
      // A key bias has no gradient but rounding, of which Adam makes whole steps: one learning rate each.
      const keyBias = (i: number): boolean =>
        /c_attn\.bias$/.test(tensor) ? Math.floor(i / model.config.width) === 1 : /k_proj\.bias$/.test(tensor);
      let worse = 0;
      values.forEach((x, i) => {
        const off = Math.abs(x - expected[i]);
        assert.ok(off <= (keyBias(i) ? 3 * config.lr : 2e-4), `${tensor}[${i}] is off by ${off}`);
        if (off > 2e-5 && !keyBias(i)) worse++;
      });
      assert.ok(worse <= values.length / 100, `${tensor}: ${worse} of ${values.length} are off by more than 2e-5`);
    }
  });
}

test('kernels without subgroups: logits, loss and gradients of qwen2-tiny equal PyTorch’s', () =>
  withSubgroup(0, async () => {
    await assertLogitsAndLogprobs('qwen2-tiny');
    await assertLossAndGradients('qwen2-tiny');
  }));

for (const name of ['gpt2-rm-tiny', 'llama-rm-tiny']) {
  test(`${name}: scores, K-wise loss and every gradient equal PyTorch’s`, async () => {
    const oracle = vectors(name);
    const model = load(name);
    const rows = realRows(oracle);
    const batch = packRows(
      rows.map(({ ids }) => ({ ids, at: [ids.length - 1] })),
      model.config,
    );
    const ranks: number[][] = oracle.ranks;
    const firsts: number[] = [];
    ranks.reduce((first, r) => (firsts.push(first, r.length), first + r.length), 0);
    assert.equal(
      oracle.prompt_and_answer_index,
      ranks.flatMap((r, p) => r.map((_, k) => [p, k])),
      'responses lie prompt by prompt',
    );
    const strict = ranks.filter((r) => new Set(r).size > 1).length;
    const stats = persistent(ranks.length, 4);
    const io = {
      ranks: column([...ranks.flat(), ...new Array(batch.shape.picks - rows.length).fill(0)]),
      prompts: matrix(firsts, 2, 'u32', 2),
      margins: column(ranks.map(() => 0)),
      weights: column(ranks.map(() => 1 / strict)),
    };
    const passes = new Passes(model.decoder, {
      training: true,
      scale: model.scale,
      objective: ({ scores, gradient }) => rankingLoss({ ...io, rewards: scores, dRewards: gradient, stats }),
    });
    const pass = await passes.run(batch);
    assertClose((await readFloats(pass.scores)).slice(0, rows.length), oracle.scores, 'scores', 1e-5);
    const perPrompt = await readFloats(stats);
    assertClose([ranks.reduce((sum, _, p) => sum + perPrompt[4 * p], 0) / strict], [oracle.loss], 'loss', 1e-5);
    const pairs = (part: number): number => ranks.reduce((sum, _, p) => sum + perPrompt[4 * p + part], 0);
    assertClose([pairs(2) / pairs(1)], [oracle.pair_accuracy], 'pair accuracy', 1e-6);
    assertGradients(
      await model.weights.save(model.weights.chunks.map((c) => c.gradients!)),
      tensors(name, 'grads.safetensors'),
      model,
      'K-wise',
    );
  });
}

const VARIANTS = fixture('models/variants/expected.json').variants as Record<
  string,
  { results: { input_ids: number[]; logits: number[][] | number[] }[] }
>;
for (const [name, { results }] of Object.entries(VARIANTS)) {
  test(`${name}: a layout from the hub gives transformers’ numbers`, async () => {
    const model = load(`variants/${name}`, {});
    const rows = results.map(({ input_ids: ids }) => ({ ids, at: [ids.length - 1] }));
    if (model.weights.head === 'reward') {
      const pass = await new Passes(model.decoder, { scale: model.scale }).run(packRows(rows, model.config));
      assertClose(
        (await readFloats(pass.scores)).slice(0, rows.length),
        results.flatMap((r) => r.logits as number[]),
        'scores',
        1e-5,
        1e-5,
      );
      return;
    }
    const { logits } = await forward(model, rows);
    const expected = results.flatMap((r) => (r.logits as number[][]).flat());
    assertClose(logits.subarray(0, expected.length), expected, 'logits', 1e-5);
  });
}

test('stories260K: a trained model’s likelihood and logits equal the float64 forward pass', async () => {
  const reference = fixture('models/stories260K/reference.json');
  const ids: number[] = reference.ids;
  const model = load('stories260K', {});
  const row = { ids, at: ids.slice(1).map((_, i) => i), targets: ids.slice(1) };
  const { logits } = await forward(model, [row]);
  const V = model.config.vocabSize;
  assertClose(logits.subarray((ids.length - 1) * V, ids.length * V), reference.logits_last, 'last logits', 1e-5);
  assertClose(logits.subarray(0, 8), reference.logits_pos0_first8, 'first logits', 1e-5);
  const stats = await readFloats((await new Passes(model.decoder).run(packRows([row], model.config))).stats);
  const nll = -row.at.reduce((sum, _, m) => sum + stats[4 * m], 0) / row.at.length;
  assertClose([nll], [reference.mean_nll_63], 'mean NLL', 1e-5);
});

/** A row of tokens to look at, and others to put beside it. */
const rowOf = (seed: number, length: number): { ids: number[]; at: number[]; targets: number[]; weights: number[] } => {
  const ids = Array.from({ length }, (_, i) => (seed * 31 + i * 17 + ((i * i) % 7)) % 80);
  const at = ids.slice(1).map((_, i) => i);
  return { ids, at, targets: ids.slice(1), weights: at.map(() => 0.01) };
};

async function assertIndependent(name: string, dtype?: 'f16'): Promise<void> {
  const model = load(name, { trainable: true, dtype });
  const { width, vocabSize } = model.config;
  const row = rowOf(1, 21);
  const others = [rowOf(2, 3), rowOf(3, 30), rowOf(4, 1), rowOf(5, 16), rowOf(6, 24)];
  const packs = [
    [row],
    [row, ...others],
    [...others, row],
    [...others.slice(0, 2), row, others[2]],
    [...others, ...others, ...others, row],
  ];
  const inference = new Passes(model.decoder);
  const seen: { hidden: number[]; logits: number[]; stats: number[] }[] = [];
  for (const pack of packs) {
    for (const atLeast of [undefined, { tokens: 352, picks: 352, rows: 64 }]) {
      const first = pack.slice(0, pack.indexOf(row)).reduce((sum, r) => sum + r.ids.length, 0);
      const { hidden, logits } = await forward(model, pack, atLeast);
      const batch = packRows(pack, model.config, atLeast);
      const stats = await readFloats((await inference.run(batch)).stats);
      const pick = batch.firstPick[pack.indexOf(row)];
      seen.push({
        hidden: [...hidden.subarray(first * width, (first + 21) * width)],
        logits: [...logits.subarray(first * vocabSize, (first + 21) * vocabSize)],
        stats: [...stats.subarray(4 * pick, 4 * (pick + 20))],
      });
    }
  }
  for (const other of seen.slice(1)) assert.equal(other, seen[0]);
  // What the update's pass computes, with all it keeps for the gradient, has the bits of the pass without.
  const { run } = trainer(model);
  for (const pack of packs.slice(0, 3)) {
    const { stats } = await run([pack]);
    const pick = packRows(pack, model.config).firstPick[pack.indexOf(row)];
    assert.equal([...stats[0].subarray(4 * pick, 4 * (pick + 20))], seen[0].stats);
  }
}

for (const name of LANGUAGE_MODELS) {
  test(`${name}: a row has the same bits in any pack, place and bucket, with and without gradients`, () =>
    assertIndependent(name));
}
test('qwen2-tiny without subgroups: a row has the same bits in any pack', () =>
  withSubgroup(0, () => assertIndependent('qwen2-tiny')));
for (const name of ['gpt2-tiny', 'qwen2-tiny']) {
  halfTest(`${name} in f16: a row has the same bits in any pack, place and bucket, with and without gradients`, () =>
    assertIndependent(name, 'f16'));
}

test('segments of a row neither see nor shift one another', async () => {
  for (const name of ['gpt2-tiny', 'llama-tiny']) {
    const model = load(name, {});
    const [a, b] = [rowOf(1, 9), rowOf(2, 14)];
    const apart = await forward(model, [a, b]);
    const packed = await forward(model, [
      {
        ids: [...a.ids, ...b.ids],
        segments: [
          [0, 9],
          [9, 14],
        ],
        at: [],
      },
    ]);
    assert.equal(
      [...packed.logits.subarray(0, 23 * model.config.vocabSize)],
      [...apart.logits.subarray(0, 23 * model.config.vocabSize)],
      name,
    );
  }
});

test('the same pass twice gives the same bits, gradients included', async () => {
  for (const name of ['gpt2-tiny', 'llama-tiny']) {
    const { batch } = labelled(name);
    const { run, gradients } = trainer(load(name));
    const once = { ...(await run([batch])), gradients: await gradients() };
    const again = { ...(await run([batch])), gradients: await gradients() };
    assert.is(again.loss, once.loss);
    assert.equal(again.stats, once.stats);
    for (const [tensor, values] of once.gradients)
      assert.equal(again.gradients.get(tensor), values, `${name}: ${tensor}`);
  }
});

test('a row longer than the context is refused', async () => {
  const model = load('gpt2-tiny', {});
  const { context } = model.config;
  assert.throws(
    () => packRows([rowOf(1, context + 1)], model.config),
    new RegExp(`${context + 1} tokens for a context of ${context}`),
  );
  assert.is(packRows([rowOf(1, context)], model.config).tokens, context);
});

test.run();
