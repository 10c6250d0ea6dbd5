// PPO's comparison of policy, reference and value: one pass each for as many tokens as the budget allows, all of them
// submitted before anything is waited for; and times that add up.
import { readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { gpu } from '../../src/gpu/device.ts';
import { Interrupted } from '../../src/errors.ts';
import type { ModelConfig } from '../../src/model/config.ts';
import { newModel } from '../../src/model/load.ts';
import { Passes } from '../../src/model/passes.ts';
import { Scorer } from '../../src/stages/judge.ts';
import { compare } from '../../src/stages/ppo_episodes.ts';
import { openReward } from '../../src/stages/reward_source.ts';
import type { Episode } from '../../src/stages/ppo_rollout.ts';
import { closeAfterTests, openForTests } from '../gpu/device.ts';
import { recordingContext } from './context.ts';
import { buildWholeProgram, jsonLines, TINY } from '../properties/program.ts';

test.before(openForTests);
test.after(closeAfterTests);

const config: ModelConfig = {
  family: 'llama', vocabSize: 64, width: 32, layers: 1, heads: 2, kvHeads: 2, headDim: 16, hidden: 64, context: 64, norm: 'rms',
  normEps: 1e-5, positions: 'rope', ropeTheta: 10000, activation: 'silu', gated: true, bias: { qkv: false, attnOut: false, mlp: false },
  tied: true, bosId: 0, eosId: 1, padId: 2, initializerRange: 0.2,
};

/** Notes, while `work` runs, each submission of kernels and each wait for what was read back. */
async function observed(work: () => Promise<unknown>): Promise<string[]> {
  const { device } = gpu();
  const events: string[] = [];
  const own = device.createBuffer;
  device.createBuffer = (descriptor) => {
    const buffer = own.call(device, descriptor);
    const map = buffer.mapAsync.bind(buffer);
    buffer.mapAsync = (...args: Parameters<GPUBuffer['mapAsync']>) => {
      events.push('wait');
      return map(...args);
    };
    return buffer;
  };
  const run = Passes.prototype.run;
  Passes.prototype.run = function (...args) {
    return run.apply(this, args).then((pass) => {
      events.push('pass');
      return pass;
    });
  };
  try {
    await work();
  } finally {
    device.createBuffer = own;
    Passes.prototype.run = run;
  }
  return events;
}

test('scoring many rows reads as it goes on, gives what single rows give, and stops when it is asked to', async () => {
  const scorer = new Scorer(newModel(config, 2, false, 'reward'), 32);
  const rows = Array.from({ length: 40 }, (_, i) => Int32Array.from({ length: 5 + (i % 9) }, (_, t) => (7 * i + 3 * t) % 60));
  let scores: number[] = [];
  const events = await observed(async () => (scores = await scorer.scores(rows)));
  assert.ok(events.filter((event) => event === 'pass').length > 10);
  assert.ok(events.indexOf('wait') < 6, 'not all passes are submitted first');
  for (const [i, row] of rows.entries()) assert.equal(await scorer.scores([row]), [scores[i]]);
  const ended = await scorer.scores(rows, AbortSignal.abort(new Interrupted())).catch((error: unknown) => error);
  assert.instance(ended, Interrupted);
});

test('a judge is not started after Ctrl-C, and one that is at work is ended', async () => {
  const context = recordingContext('ppo');
  const controller = new AbortController();
  const { scores } = await openReward('cmd:sleep 60', undefined as never, { ...context, signal: controller.signal });
  const began = performance.now();
  const answers = [{ prompt: 'a', ids: [1], completion: 'b', finish: 'stop' as const }];
  const waiting = scores(answers).catch((error: unknown) => error);
  controller.abort(new Interrupted());
  assert.instance(await waiting, Interrupted);
  assert.instance(await scores(answers).catch((error: unknown) => error), Interrupted);
  assert.ok(performance.now() - began < 20_000);
});

test('all passes are submitted before the first wait, and give what single episodes give', async () => {
  const policy = newModel(config, 1, false);
  const value = newModel(config, 2, false, 'reward');
  const made = () => ({ policyPasses: new Passes(policy.decoder), referencePasses: new Passes(newModel(config, 3, false).decoder),
    valuePasses: new Passes(value.decoder, { scale: value.scale }) });
  const episode = (i: number): Episode => ({
    promptIds: new Int32Array(5 + i), ids: Int32Array.from({ length: 15 + 2 * i }, (_, t) => (t * 7 + i) % 64),
  }) as unknown as Episode;
  const together = Array.from({ length: 6 }, (_, i) => episode(i));
  const events = await observed(() => compare(together, made(), policy, 64));
  // 15, 17, 19 tokens fit 64 together, then 21 and 23, then 25.
  assert.equal(events, [...new Array<string>(9).fill('pass'), 'wait', 'wait', 'wait']);
  for (const [i, found] of together.entries()) {
    const alone = episode(i);
    await compare([alone], made(), policy, 64);
    for (const key of ['logprobs', 'refLogprobs', 'values', 'entropies'] as const) {
      assert.is(found[key].length, 10 + i);
      assert.equal(found[key], alone[key], `${key} of episode ${i}`);
    }
  }
  const scorer = new Scorer(value, 64);
  const scoring = await observed(() => scorer.scores(together.map(({ ids }) => ids)));
  assert.equal(scoring, ['pass', 'pass', 'pass', 'wait', 'wait', 'wait']);
});

test("an iteration's times add up to its seconds", async () => {
  const rlhf = await buildWholeProgram();
  rlhf.rows('text.jsonl', Array.from({ length: 8 }, (_, i) => ({ text: `one two three ${i}` })));
  rlhf.rows('prompts.jsonl', Array.from({ length: 8 }, (_, i) => ({ prompt: `a ${i}` })));
  await rlhf.succeed(['pretrain', '--data', 'text.jsonl', ...TINY, '--max-steps', '1', '--out', 'base', '--quiet']);
  await rlhf.succeed(['ppo', '--policy', 'base', '--reward', `cmd:sed 's/.*/{"reward":1}/'`, '--prompts', 'prompts.jsonl', '--beta', '0.1',
    '--batch-size', '4', '--minibatch-size', '2', '--max-new-tokens', '8', '--save-rollouts', '--out', 'ppo', '--quiet']);
  const lines = jsonLines(readFileSync(rlhf.path('ppo', 'metrics.jsonl'), 'utf8'));
  assert.is(lines.length, 2);
  for (const line of lines) {
    const sum = line['time/rollout'] + line['time/score'] + line['time/update'];
    assert.ok(line.seconds > 0 && Math.abs(sum - line.seconds) <= 0.002, `${sum} and ${line.seconds} s, each rounded to a millisecond`);
  }
  rlhf.remove();
});

test.run();
