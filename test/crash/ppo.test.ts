import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { seeded } from '../gpu/device.ts';
import { assertSameRun, buildWholeProgram, metricsOf, outcome, type WholeProgram } from '../properties/program.ts';
import { KILLS, metricsLines, soundFolder, surviveInterruptions } from './interruptions.ts';
import { prepareData } from './runs.ts';

let rlhf: WholeProgram;
test.before(async () => {
  rlhf = await buildWholeProgram();
  await prepareData(rlhf);
  await rlhf.succeed([
    'train-rm',
    '--model',
    'base',
    '--data',
    'rankings.jsonl',
    '--batch-size',
    '6',
    '--lr',
    '0.003',
    '--out',
    'reward',
    '--quiet',
  ]);
});
test.after(() => rlhf.remove());

const PPO = [
  'ppo',
  '--policy',
  'base',
  '--prompts',
  'prompts.jsonl',
  '--episodes',
  '60',
  '--batch-size',
  '6',
  '--minibatch-size',
  '3',
  '--epochs',
  '2',
  '--max-new-tokens',
  '6',
  '--lr',
  '0.003',
  '--value-lr',
  '0.003',
  '--warmup',
  '3',
  '--schedule',
  'linear',
];

test('ppo with an average, an adaptive β, a pretraining term and several passes', async () => {
  await surviveInterruptions(rlhf, 'ppo', {
    args: [
      ...PPO,
      '--reward',
      'reward',
      '--pretrain',
      'text.jsonl',
      '--gamma',
      '0.5',
      '--pretrain-batch',
      '2',
      '--ema',
      '0.9',
      '--target-kl',
      '0.05',
      '--horizon',
      '60',
      '--save-rollouts',
    ],
    steps: 10,
    saveEvery: 1,
    kills: Math.floor((KILLS + 3) / 4),
    random: seeded(4).uniform,
  });
  const metrics = metricsOf(rlhf.path('ppo-whole'));
  assert.ok(new Set(metrics.map((m) => m['objective/kl_coef'])).size > 5, 'β has moved');
  assert.not.equal(
    readFileSync(rlhf.path('ppo-whole/raw/model.safetensors')),
    readFileSync(rlhf.path('ppo-whole/model.safetensors')),
  );
  for (const file of readdirSync(rlhf.path('ppo-whole/rollouts'))) {
    assert.is(
      readFileSync(rlhf.path('ppo-parts/rollouts', file), 'utf8'),
      readFileSync(rlhf.path('ppo-whole/rollouts', file), 'utf8'),
      file,
    );
  }
});

test('Ctrl-C while a reward program is at work saves and exits at once', async () => {
  const script = rlhf.path('reward.sh');
  // Scores by length; where the file `slow` is there it says so and hangs.
  const scores = `awk '{ printf "{\\"reward\\":%d}\\n", length($0) % 7 }'`;
  const program = `if [ -e slow ]; then touch slow.reached; sleep 60; fi; ${scores}`;
  writeFileSync(script, program);
  const args = [...PPO, '--reward', 'cmd:sh reward.sh'];
  await rlhf.succeed([...args, '--out', 'cmd-whole', '--quiet']);
  await rlhf.succeed([...args, '--out', 'cmd', '--max-steps', '2', '--quiet']);
  writeFileSync(rlhf.path('slow'), '');
  const child = rlhf.start([...args, '--out', 'cmd', '--resume'], { detached: true });
  child.stdin!.end();
  const ended = outcome(child);
  while (!existsSync(rlhf.path('slow.reached')) && child.exitCode === null)
    await new Promise((resolve) => setTimeout(resolve, 20));
  const signalled = performance.now();
  process.kill(-child.pid!, 'SIGINT'); // as a terminal does: the whole process group
  const { code, stderr } = await ended;
  assert.is(code, 130, stderr);
  assert.ok(performance.now() - signalled < 40_000, 'it did not wait for the program');
  assert.match(stderr, /stopped after iteration 2: go on with --resume\n$/);
  assert.equal(soundFolder(rlhf.path('cmd'), 10), { lines: 2, checkpoint: 2 });
  rmSync(rlhf.path('slow'));
  await rlhf.succeed([...args, '--out', 'cmd', '--resume', '--quiet']);
  assertSameRun(rlhf.path('cmd'), rlhf.path('cmd-whole'), 'resumed');
});

test('a reward program that fails is named, and the last checkpoint stays', async () => {
  const reward = `cmd:if [ -e first ]; then echo no; exit 3; fi; touch first; awk '{ print "{\\"reward\\":1}" }'`;
  const { code, stderr } = await rlhf.run([
    ...PPO,
    '--reward',
    reward,
    '--save-every',
    '1',
    '--out',
    'failing-saved',
    '--quiet',
  ]);
  assert.is(code, 1);
  assert.match(stderr, /^rlhf: error: --reward cmd:.*: ended with exit code 3\n$/m);
  assert.equal(soundFolder(rlhf.path('failing-saved'), 1), { lines: 1, checkpoint: 1 });
  assert.is(metricsLines(rlhf.path('failing-saved')), 1);
});

test('a run whose reward program fails goes on from where it was, without --save-every', async () => {
  const counted = `n=$(cat calls 2> /dev/null); echo $((n + 1)) > calls; if [ -e fails ] && [ "$n" = "$(cat fails)" ]; then echo no; exit 3; fi`;
  const args = [...PPO, '--quiet', '--reward', `cmd:${counted}; awk '{ printf "{\\"reward\\":%d}\\n", length($0) % 7 }'`];
  await rlhf.succeed([...args, '--out', 'failing-whole']);
  rmSync(rlhf.path('calls'));
  writeFileSync(rlhf.path('fails'), '3');
  const { code, stderr } = await rlhf.run([...args, '--out', 'failing']);
  assert.is(code, 1);
  assert.match(stderr, /^rlhf: error: --reward cmd:.*: ended with exit code 3\n$/m);
  assert.equal(soundFolder(rlhf.path('failing'), 3), { lines: 3, checkpoint: 3 });
  assert.is(metricsLines(rlhf.path('failing')), 3);
  await rlhf.succeed([...args, '--out', 'failing', '--resume']);
  assertSameRun(rlhf.path('failing'), rlhf.path('failing-whole'), 'resumed');
});

test.run();
