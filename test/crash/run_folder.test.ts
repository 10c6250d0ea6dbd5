// What becomes of a run folder when runs fail, go on under other conditions, or meet in it.
import { copyFileSync, cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { assertSameRun, buildWholeProgram, jsonLines, outcome, type WholeProgram } from '../properties/program.ts';
import { prepareData } from './runs.ts';

let rlhf: WholeProgram;
const PPO = ['ppo', '--policy', 'base', '--prompts', 'prompts.jsonl', '--episodes', '24', '--batch-size', '6', '--minibatch-size', '3', '--warmup', '1',
  '--max-new-tokens', '6', '--quiet'];
const SFT = ['train-sft', '--model', 'base', '--data', 'demonstrations.jsonl', '--batch-size', '5', '--epochs', '2', '--quiet'];
const judge = (more: string): string => `cmd:node -e "
  const rows = require('fs').readFileSync(0, 'utf8').trim().split('\\n').map((line) => JSON.parse(line));
  ${more}
  for (const row of rows) console.log(JSON.stringify(row));"`;
const LENGTHS = 'for (const row of rows) row.reward = row.completion.length;';
test.before(async () => {
  rlhf = await buildWholeProgram();
  await prepareData(rlhf);
});
test.after(() => rlhf.remove());

/** Every file of a folder with its content. */
const held = (dir: string): Record<string, string> => Object.fromEntries(readdirSync(rlhf.path(dir), { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile()).map(({ parentPath, name }) => [join(parentPath, name), readFileSync(join(parentPath, name), 'latin1')]));
const record = (dir: string) => JSON.parse(readFileSync(rlhf.path(dir, 'rlhf.json'), 'utf8'));

test('--overwrite with a judge that fails leaves the older model as it was', async () => {
  await rlhf.succeed([...PPO, '--reward', judge(LENGTHS), '--out', 'policy', '--save-rollouts']);
  const before = held('policy');
  const failed = await rlhf.run([...PPO, '--reward', 'cmd:no-such-judge', '--out', 'policy', '--overwrite']);
  assert.is(failed.code, 1, failed.stderr);
  assert.match(failed.stderr, /--reward cmd:no-such-judge: ended with exit code 127/);
  assert.equal(held('policy'), before);
  await rlhf.succeed([...PPO, '--reward', judge(LENGTHS), '--out', 'policy', '--overwrite', '--seed', '1']);
  assert.equal(readdirSync(rlhf.path('policy')).filter((name) => /replaced|failed|rollouts|lock/.test(name)), []);
  assert.is(record('policy').settings.seed, 1);
});

test('a model that cannot be written loses nothing: once it can be, the run is resumed after its last step', async () => {
  const RM = ['train-rm', '--model', 'base', '--data', 'rankings.jsonl', '--demonstrations', 'demonstrations.jsonl', '--quiet'];
  for (const [name, args, model] of [
    ['sft', SFT, ''],
    ['rm', RM, ''],
    ['pretrain', ['pretrain', '--model', 'base', '--data', 'text.jsonl', '--quiet'], ''],
    ['ppo', [...PPO, '--reward', judge(LENGTHS), '--ema', '0.9'], 'raw'],
  ] as const) {
    await rlhf.succeed([...args, '--out', `${name}-whole`]);
    const obstacle = rlhf.path(`${name}-parts`, model, 'tokenizer_config.json');
    mkdirSync(join(obstacle, 'something'), { recursive: true });
    const failed = await rlhf.run([...args, '--out', `${name}-parts`]);
    assert.is(failed.code, 1, failed.stderr);
    assert.match(failed.stderr, /tokenizer_config\.json: cannot be written, a folder is in the way/);
    rmSync(obstacle, { recursive: true });
    await rlhf.succeed([...args, '--out', `${name}-parts`, '--resume']);
    assertSameRun(rlhf.path(`${name}-parts`), rlhf.path(`${name}-whole`), name);
  }
});

test('a judge must answer in order where it repeats what it was given, and within what a float32 holds', async () => {
  for (const [more, message] of [
    [`${LENGTHS} rows.reverse();`, /row \d+ has another "completion" than the response in its place: a row is due for each, in order/],
    [`${LENGTHS} rows[2].prompt = 'another';`, /row 3 has another "prompt" than/],
    [`${LENGTHS} rows[1].reward = 1e300;`, /row 2 has the reward 1e\+300, which is more than a float32 holds/],
    [`${LENGTHS} delete rows[3].reward;`, /row 4 has no number in "reward"/],
  ] as const) {
    const { code, stderr } = await rlhf.run([...PPO, '--reward', judge(more), '--out', 'refused']);
    assert.is(code, 1, stderr);
    assert.match(stderr, message);
  }
  // Rewards alone are enough.
  await rlhf.succeed([...PPO, '--reward', judge(`${LENGTHS} rows.forEach((row, i) => (rows[i] = { reward: row.reward }));`), '--out', 'alone']);
});

test('--resume with fewer --max-steps than are done trains nothing and leaves a true record', async () => {
  await rlhf.succeed([...SFT, '--out', 'sft', '--max-steps', '5']);
  const before = record('sft');
  assert.is(before.steps, 5);
  const weights = readFileSync(rlhf.path('sft', 'model.safetensors'));
  for (const steps of ['5', '2']) {
    const again = await rlhf.run([...SFT, '--out', 'sft', '--max-steps', steps, '--resume', '--memory', '100K'].filter((word) => word !== '--quiet'));
    assert.is(again.code, 0, again.stderr);
    assert.is(/5 steps are done already, more than --max-steps 2: nothing is trained/.test(again.stderr), steps === '2');
    assert.match(again.stderr, /--memory 100 KiB: the passes that were asked for, or that the resumed run had, take about/);
    const [summary] = jsonLines(again.stdout);
    assert.equal([summary.steps, summary.step, summary.padding], [5, 5, before.padding]);
    assert.equal([record('sft').steps, record('sft').padding], [5, before.padding]);
    assert.ok(readFileSync(rlhf.path('sft', 'model.safetensors')).equals(weights));
  }
});

test('--resume with another model under the same name is refused, for each model that the run reads', async () => {
  await rlhf.succeed(['train-rm', '--model', 'base', '--data', 'rankings.jsonl', '--max-steps', '2', '--out', 'reward', '--quiet']);
  cpSync(rlhf.path('base'), rlhf.path('reference'), { recursive: true });
  const args = [...PPO, '--reference', 'reference', '--reward', 'reward', '--out', 'run'];
  await rlhf.succeed([...args, '--max-steps', '1']);
  assert.equal(Object.keys(record('run').models), ['policy', 'reward', 'reference', 'value']);
  assert.match(record('run').models.reward['model.safetensors'], /^[0-9a-f]{64}$/);
  for (const [option, dir] of [['policy', 'base'], ['reference', 'reference'], ['reward', 'reward']]) {
    const file = rlhf.path(dir!, 'model.safetensors');
    copyFileSync(file, rlhf.path('kept'));
    const bytes = readFileSync(file);
    bytes[bytes.length - 1]! ^= 1; // one bit of one weight
    writeFileSync(file, bytes);
    const { code, stderr } = await rlhf.run([...args, '--resume']);
    assert.is(code, 2, stderr);
    assert.match(stderr, new RegExp(`^rlhf: error: --${option}: model\\.safetensors: not the model that the run in run began with$`, 'm'));
    copyFileSync(rlhf.path('kept'), file);
  }
  await rlhf.succeed([...args.map((word) => (word === 'reward' ? './reward/' : word)), '--resume']);
  assert.is(record('run').complete, true);
});

test('a second run in the same folder is refused while the first one works', async () => {
  const args = [...SFT, '--out', 'shared', '--epochs', '200'].filter((word, i, all) => !(word === '2' && all[i - 1] === '--epochs') && !(word === '--epochs' && all[i + 1] === '2'));
  const first = rlhf.start(args);
  first.stdin!.end();
  const ended = outcome(first);
  const metrics = (): string => {
    try {
      return readFileSync(rlhf.path('shared', 'metrics.jsonl'), 'utf8');
    } catch {
      return '';
    }
  };
  while (metrics() === '' && first.exitCode === null) await new Promise((done) => setTimeout(done, 50));
  for (const more of [['--overwrite'], ['--resume'], []]) {
    const second = await rlhf.run([...args, ...more]);
    assert.is(second.code, 2, second.stderr);
    assert.match(second.stderr, new RegExp(`^rlhf: error: --out: process ${first.pid} is working in shared$`, 'm'));
  }
  first.kill('SIGINT');
  assert.is((await ended).code, 130);
  const lines = jsonLines(metrics());
  lines.forEach(({ step }, i) => assert.is(step, i + 1));
});

test.run();
