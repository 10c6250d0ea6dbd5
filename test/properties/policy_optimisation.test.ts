import { readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { openModel } from '../../src/files/model_folder.ts';
import { prepareData } from '../crash/runs.ts';
import { relativeError } from '../gpu/device.ts';
import { assertSameRun, buildWholeProgram, jsonLines, metricsOf, type WholeProgram } from './program.ts';

let rlhf: WholeProgram;
test.before(async () => {
  rlhf = await buildWholeProgram();
  await prepareData(rlhf);
});
test.after(() => rlhf.remove());

const REWARD = `cmd:awk '{ printf "{\\"reward\\":%f}\\n", (length($0) % 9) / 3 }'`;
const PPO = [
  'ppo',
  '--policy',
  'base',
  '--reward',
  REWARD,
  '--prompts',
  'prompts.jsonl',
  '--batch-size',
  '8',
  '--max-new-tokens',
  '8',
  '--warmup',
  '0',
  '--quiet',
  '--value-lr',
  '0.002',
];
const SLOW = ['--lr', '0.002'];

/** ‖a − b‖ / ‖b‖ over all weights of two models. */
function weightDifference(actual: string, expected: string): number {
  const [a, b] = [actual, expected].map((dir) => openModel(rlhf.path(dir)));
  const all = (model: typeof a): number[] => model.plan.flatMap(({ name }) => [...model.read(name)]);
  const off = relativeError(all(a), all(b));
  for (const model of [a, b]) model.close();
  return off;
}

test('before the first update the KL is 0, every ratio 1 and nothing clipped, exactly, at any temperature', async () => {
  for (const temperature of ['1', '0.7']) {
    const out = `first-${temperature}`;
    await rlhf.succeed([
      ...PPO,
      ...SLOW,
      '--episodes',
      '16',
      '--minibatch-size',
      '8',
      '--temperature',
      temperature,
      '--save-rollouts',
      '--out',
      out,
    ]);
    const [first, second] = metricsOf(rlhf.path(out));
    for (const name of ['objective/kl', 'objective/kl_k3', 'policy/approxkl_avg', 'policy/clipfrac_avg'])
      assert.is(first[name], 0, name);
    for (const { 'val/ratio_max': max, 'val/ratio_min': min, 'policy/clipfrac_avg': clipped } of [first, second]) {
      assert.equal(
        [max, min, clipped],
        [1, 1, 0],
        'one minibatch an iteration: its ratios are those of an unchanged policy',
      );
    }
    assert.ok((second['objective/kl'] as number) !== 0, 'the policy has moved away from the reference');
    const rollout = jsonLines(readFileSync(rlhf.path(out, 'rollouts/step-000001.jsonl'), 'utf8'));
    for (const row of rollout) assert.equal(row.logprobs, row.ref_logprobs, 'bit for bit');
  }
});

test('only the first minibatch has ratio 1 where there are several', async () => {
  await rlhf.succeed([...PPO, '--episodes', '8', '--minibatch-size', '2', '--out', 'several', '--lr', '0.02']);
  const [{ 'val/ratio_max': max, 'val/ratio_min': min }] = metricsOf(rlhf.path('several')) as any[];
  assert.ok(max > 1 && min < 1);
});

test('γ = 0 with pretraining data equals a run without them, bit for bit; γ > 0 does not', async () => {
  const args = [...PPO, ...SLOW, '--episodes', '24', '--minibatch-size', '4'];
  await rlhf.succeed([...args, '--out', 'plain']);
  await rlhf.succeed([...args, '--pretrain', 'text.jsonl', '--gamma', '0', '--out', 'gamma-0']);
  assertSameRun(rlhf.path('gamma-0'), rlhf.path('plain'), 'γ = 0');
  await rlhf.succeed([...args, '--pretrain', 'text.jsonl', '--gamma', '0.1', '--out', 'gamma-1']);
  assert.ok(weightDifference('gamma-1', 'plain') > 1e-4);
  const metrics = metricsOf(rlhf.path('gamma-1'));
  assert.ok(metrics.every((m) => (m['loss/ptx'] as number) > 0 && (m['grad_norm/ptx'] as number) > 0));
});

// AdamW divides by √v: where a gradient is rounding noise alone, its sign is a step of full size. An eps far above the
// noise leaves the update a smooth function of the gradient, so that the bound is one on the accumulated gradients.
const SMOOTH = ['--adam-eps', '0.01', '--schedule', 'constant', '--quiet'];

test('weights do not depend on how a batch is split into passes (1e-6): pretrain, train-sft, train-rm', async () => {
  const runs = {
    pretrain: ['pretrain', '--model', 'base', '--data', 'text.jsonl', '--batch-size', '24'],
    sft: [
      'train-sft',
      '--model',
      'base',
      '--data',
      'demonstrations.jsonl',
      '--batch-size',
      '10',
      '--pretrain',
      'text.jsonl',
      '--pretrain-fraction',
      '0.5',
      '--dropout',
      '0.1',
    ],
    rm: ['train-rm', '--model', 'base', '--data', 'rankings.jsonl', '--batch-size', '9'],
  };
  for (const [name, args] of Object.entries(runs)) {
    const sizes = ['40', '4096'];
    for (const size of sizes) {
      await rlhf.succeed([
        ...args,
        ...SMOOTH,
        '--lr',
        '0.01',
        '--max-steps',
        '3',
        '--micro-batch-tokens',
        size,
        '--out',
        `${name}-${size}`,
      ]);
    }
    const off = weightDifference(`${name}-40`, `${name}-4096`);
    assert.ok(off <= 1e-6, `${name}: ${off} between passes of 40 tokens and of 4096`);
    if (name !== 'rm') assert.ok(weightDifference(`${name}-4096`, 'base') > 1e-4, 'there was something to learn');
  }
});

test('weights do not depend on how a minibatch is split into passes (1e-6): ppo with a pretraining term', async () => {
  for (const size of ['40', '4096']) {
    await rlhf.succeed([
      ...PPO,
      '--adam-eps',
      '0.01',
      '--episodes',
      '8',
      '--minibatch-size',
      '8',
      '--pretrain',
      'text.jsonl',
      '--pretrain-batch',
      '3',
      '--micro-batch-tokens',
      size,
      '--lr',
      '0.01',
      '--out',
      `passes-${size}`,
    ]);
  }
  for (const part of ['', '/value']) {
    const off = weightDifference(`passes-40${part}`, `passes-4096${part}`);
    assert.ok(off <= 1e-6, `${off}${part}`);
  }
  assert.ok(weightDifference('passes-40', 'base') > 1e-4, 'there was something to learn');
});

test.run();
