import { existsSync, readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { prepareData } from '../crash/runs.ts';
import { buildWholeProgram, jsonLines, metricsOf, type WholeProgram } from '../properties/program.ts';

let rlhf: WholeProgram;
const SFT = ['train-sft', '--model', 'base', '--data', 'demonstrations.jsonl', '--eval-data', 'dev.jsonl', '--lr', '0.01', '--epochs', '4',
  '--max-new-tokens', '8', '--schedule', 'constant', '--quiet'];
test.before(async () => {
  rlhf = await buildWholeProgram();
  await prepareData(rlhf);
  await rlhf.succeed(['train-rm', '--model', 'base', '--data', 'rankings.jsonl', '--out', 'rm', '--lr', '0.003', '--epochs', '2', '--quiet']);
});
test.after(() => rlhf.remove());

test('the epoch whose answers the reward model likes best is kept', async () => {
  const summary = JSON.parse(await rlhf.succeed([...SFT, '--select-by-reward', 'rm', '--out', 'selected']));
  const evaluated = metricsOf(rlhf.path('selected')).filter((m) => m.eval_reward !== undefined) as { step: number; eval_reward: number; eval_loss: number }[];
  assert.is(evaluated.length, 4);
  assert.ok(new Set(evaluated.map((m) => m.eval_reward)).size > 1, 'rewards differ');
  const best = evaluated.reduce((a, b) => (b.eval_reward > a.eval_reward ? b : a));
  assert.is(summary.selected_step, best.step);
  // The kept weights, sampled as the selection samples, earn the reward it saw.
  const again = JSON.parse(await rlhf.succeed(['eval', 'policy', '--model', 'selected', '--reward', 'rm', '--data', 'dev.jsonl', '--max-new-tokens', '8', '--quiet']));
  assert.ok(Math.abs(again.reward - best.eval_reward) < 1e-5, `${again.reward}, not ${best.eval_reward}`);
});

test('rows without a prompt, and a reward model of another tokenizer, are refused', async () => {
  rlhf.rows('texts.jsonl', [{ prompt: 'a', completion: 'b' }, { text: 'a cat' }]);
  const args = SFT.map((word) => (word === 'dev.jsonl' ? 'texts.jsonl' : word));
  const { code, stderr } = await rlhf.run([...args, '--select-by-reward', 'rm', '--out', 'none']);
  assert.is(code, 2, stderr);
  assert.match(stderr, /texts\.jsonl:2: a text has no prompt/);
  await rlhf.succeed(['pretrain', '--data', 'text.jsonl', '--layers', '1', '--width', '16', '--heads', '2', '--context', '32', '--vocab-size', '270',
    '--max-steps', '1', '--out', 'other', '--quiet']);
  await rlhf.succeed(['train-rm', '--model', 'other', '--data', 'rankings.jsonl', '--max-steps', '1', '--out', 'other-rm', '--quiet']);
  const other = await rlhf.run([...SFT, '--select-by-reward', 'other-rm', '--out', 'none2']);
  assert.is(other.code, 2, other.stderr);
  assert.match(other.stderr, /--select-by-reward: the tokenizer in other-rm is not the policy's/);
  assert.equal(jsonLines(other.stdout), []);
});

test('a reward model that cannot read all of the policy\'s answers is refused before anything is trained', async () => {
  await rlhf.succeed(['pretrain', '--data', 'text.jsonl', '--tokenizer', 'base', '--layers', '1', '--width', '16', '--heads', '2', '--context', '16',
    '--max-steps', '1', '--out', 'short', '--quiet']);
  await rlhf.succeed(['train-rm', '--model', 'short', '--data', 'rankings.jsonl', '--truncate', '--max-steps', '1', '--out', 'short-rm', '--quiet']);
  const ppo = ['ppo', '--policy', 'base', '--prompts', 'prompts.jsonl', '--max-new-tokens', '16', '--quiet'];
  for (const [option, args] of [
    ['--select-by-reward', [...SFT, '--select-by-reward', 'short-rm']],
    ['--reward', [...ppo, '--reward', 'short-rm']],
    ['--value', [...ppo, '--reward', 'rm', '--value', 'short-rm']],
    ['--reference', [...ppo, '--reward', 'rm', '--reference', 'short']],
  ] as const) {
    const { code, stdout, stderr } = await rlhf.run([...args, '--out', 'refused']);
    assert.is(code, 2, stderr);
    assert.match(stderr, new RegExp(`^rlhf: error: ${option}: short(-rm)? has a context of 16, but rows may have \\d+ tokens$`, 'm'));
    assert.is(stdout, '');
    assert.not(existsSync(rlhf.path('refused/metrics.jsonl')) && readFileSync(rlhf.path('refused/metrics.jsonl'), 'utf8') !== '');
  }
});

test.run();
