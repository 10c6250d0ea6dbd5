import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { writeModel } from '../../src/files/model_folder.ts';
import { tensorPlan, type ModelConfig } from '../../src/model/config.ts';
import { fixture, seeded } from '../gpu/device.ts';
import { logSoftmax } from '../../src/self_test/reference/sampler.ts';
import { buildWholeProgram, jsonLines, metricsOf, type WholeProgram } from './program.ts';

const ARMS = ['a', 'b', 'c', 'd', 'e'];
const config: ModelConfig = {
  family: 'gpt2',
  vocabSize: 5,
  width: 8,
  layers: 1,
  heads: 2,
  kvHeads: 2,
  headDim: 4,
  hidden: 16,
  context: 8,
  norm: 'layer',
  normEps: 1e-5,
  positions: 'learned',
  ropeTheta: 10000,
  activation: 'gelu_new',
  gated: false,
  bias: { qkv: true, attnOut: true, mlp: true },
  tied: true,
  eosId: 4,
  initializerRange: 0.02,
};
/** Each letter is a token, and there are no others: the last of them is the end token, a response by itself. */
const tokenizer = {
  'tokenizer.json': JSON.stringify({
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    model: { type: 'BPE', vocab: Object.fromEntries(ARMS.map((arm, i) => [arm, i])), merges: [] },
  }),
  'tokenizer_config.json': JSON.stringify({ tokenizer_class: 'PreTrainedTokenizerFast', eos_token: 'e' }),
};

/**
 * A GPT-2 whose first token's distribution is softmax(logits): the embeddings of the arms are unit vectors, and of the
 * last norm only the bias reaches them. All weights can be trained.
 */
async function writeBandit(dir: string, logits: number[]): Promise<void> {
  const { normals } = seeded(1);
  const tensors = tensorPlan(config, 'lm').map(({ name, shape }) => {
    const size = shape.reduce((a, b) => a * b, 1);
    const data = /ln_[12]\.weight/.test(name) ? new Float32Array(size).fill(1) : normals(size, 0.2);
    if (name === 'transformer.wte.weight')
      data.fill(0).forEach((_, i) => (data[i] = i % config.width === Math.floor(i / config.width) ? 1 : 0));
    if (name === 'transformer.ln_f.weight') data.set([0, 0, 0, 0, 0, 1, 1, 1]);
    if (name === 'transformer.ln_f.bias') data.set([...logits, 0, 0, 0]);
    return { name, shape, data };
  });
  await writeModel(dir, { config, head: 'lm', tensors, tokenizerFrom: tokenizer });
}

const STEPS = 60;
let rlhf: WholeProgram;
const { cases } = fixture('ppo/bandit.json') as { cases: Bandit[] };
interface Bandit {
  ref_logits: number[];
  rewards: number[];
  beta: number;
  pi_ref: number[];
  pi_star: number[];
}

/** The distribution over the arms, through `rlhf logprobs`. */
async function arms(model: string): Promise<number[]> {
  const row = { prompt: 'a', completions: ARMS, finish_reason: ARMS.map(() => 'length') };
  const [{ logprobs }] = jsonLines(await rlhf.succeed(['logprobs', '--model', model, '--quiet'], JSON.stringify(row)));
  return logprobs.map(([logprob]: number[]) => Math.exp(logprob));
}

const totalVariation = (p: number[], q: number[]): number => p.reduce((sum, x, i) => sum + Math.abs(x - q[i]), 0) / 2;

test.before(async () => {
  rlhf = await buildWholeProgram();
  await writeBandit(rlhf.path('start'), cases[0].ref_logits);
  rlhf.rows('prompts.jsonl', [{ prompt: 'a' }]);
});
test.after(() => rlhf.remove());

test('the model starts at π0', async () => {
  assert.ok(totalVariation(await arms('start'), cases[0].pi_ref) < 1e-6);
});

for (const { rewards, beta, pi_ref, pi_star, ref_logits } of cases) {
  test(`PPO through a reward program reaches π0·exp(r/β)/Z, β = ${beta}`, async () => {
    const closedForm = logSoftmax(
      ref_logits.map((l, i) => l + rewards[i] / beta),
      1,
    ).map(Math.exp);
    assert.ok(totalVariation(closedForm, pi_star) < 1e-6, 'the closed form of the fixture');
    // A response is one token: 'e' is the end token, so its text is empty; the others are cut off.
    const rules = ARMS.map((arm, i) => `-e 's/.*"completion":"${arm === 'e' ? '' : arm}".*/{"reward":${rewards[i]}}/'`);
    const out = `out-${beta}`;
    await rlhf.succeed([
      'ppo',
      '--policy',
      'start',
      '--reward',
      `cmd:sed ${rules.join(' ')}`,
      '--prompts',
      'prompts.jsonl',
      '--out',
      out,
      '--beta',
      String(beta),
      '--max-new-tokens',
      '1',
      '--missing-eos-penalty',
      '0',
      '--episodes',
      String(STEPS * 256),
      '--batch-size',
      '256',
      '--minibatch-size',
      '256',
      '--lr',
      '0.05',
      '--value-lr',
      '0.05',
      '--value-clip',
      '10',
      '--schedule',
      'linear',
      '--min-lr-ratio',
      '0',
      '--warmup',
      '0',
      '--quiet',
    ]);
    const metrics = metricsOf(rlhf.path(out));
    assert.is(metrics[0]['objective/kl'], 0);
    const found = await arms(out);
    const off = totalVariation(found, pi_star);
    assert.ok(off <= 0.01, `total variation ${off}: ${found} for ${pi_star} (from ${pi_ref})`);
    // The KL that was reported on the way is that of the optimum, to sampling error and the last steps.
    const kl = pi_star.reduce((sum, p, i) => sum + p * Math.log(p / pi_ref[i]), 0);
    const last = metrics.slice(-10).reduce((sum, m) => sum + (m['objective/kl'] as number) / 10, 0);
    assert.ok(Math.abs(last - kl) < 0.05 + 0.05 * kl, `KL ${last} for ${kl}`);
  });
}

test.run();
