import { cpSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { assertSameRun, buildWholeProgram, jsonLines, metricsOf, type WholeProgram } from '../properties/program.ts';

const fixtures = join(process.env.RLHF_ROOT!, 'test', 'fixtures', 'cli_golden');

let rlhf: WholeProgram;
test.before(async () => {
  rlhf = await buildWholeProgram();
  cpSync(fixtures, rlhf.folder, { recursive: true });
});
test.after(() => rlhf.remove());

test('stopped before its first evaluation, a run still selects the epoch with the lowest held-out loss', async () => {
  // Held-out answers that contradict what is learnt: later epochs make them less likely.
  const demonstrations = jsonLines(readFileSync(rlhf.path('demonstrations.jsonl'), 'utf8'));
  rlhf.rows(
    'other.jsonl',
    demonstrations.slice(0, 6).map(({ prompt }, i) => ({ prompt, completion: `${i}?!` })),
  );
  const args = [
    'train-sft',
    '--model',
    'policy',
    '--data',
    'demonstrations.jsonl',
    '--eval-data',
    'other.jsonl',
    '--lr',
    '1e-2',
    '--batch-size',
    '6',
    '--epochs',
    '3',
    '--quiet',
  ];
  const summary = JSON.parse(await rlhf.succeed([...args, '--out', 'whole'])) as { selected_step: number };
  assert.ok(summary.selected_step < 12, `the last epoch is not the best: ${summary.selected_step}`);
  await rlhf.succeed([...args, '--out', 'stopped', '--max-steps', '2']);
  await rlhf.succeed([...args, '--out', 'stopped', '--resume']);
  assertSameRun(rlhf.path('stopped'), rlhf.path('whole'), 'stopped after two of four steps');
});

test('a batch of ties alone teaches nothing and stops nothing; rankings that are all ties are refused', async () => {
  const tied = { prompt: 'a', completions: ['x', 'y'], ranks: [1, 1] };
  const args = [
    'train-rm',
    '--model',
    'reward',
    '--data',
    'ties.jsonl',
    '--batch-size',
    '1',
    '--no-shuffle',
    '--quiet',
    '--out',
    'rm',
  ];
  rlhf.rows('ties.jsonl', [tied, tied]);
  const refused = await rlhf.run(args);
  assert.is(refused.code, 2);
  assert.match(refused.stderr, /--data: no prompt of ties\.jsonl has two responses of different ranks/);
  rlhf.rows('ties.jsonl', [tied, { prompt: 'a', chosen: 'x', rejected: 'y' }, tied]);
  await rlhf.succeed(args);
  const [first, second] = metricsOf(rlhf.path('rm'));
  assert.is(first.loss, 0);
  assert.is(first.grad_norm, 0);
  assert.not('accuracy' in first);
  assert.ok((second.loss as number) > 0 && 'accuracy' in second);
});

test('a rate of 0 and a run of no steps leave the weights as they are', async () => {
  const args = ['train-sft', '--model', 'policy', '--data', 'demonstrations.jsonl', '--quiet'];
  await rlhf.succeed([...args, '--lr', '0', '--weight-decay', '0.1', '--epochs', '1', '--out', 'rate-0']);
  await rlhf.succeed([...args, '--max-steps', '0', '--out', 'steps-0']);
  const start = readFileSync(rlhf.path('policy', 'model.safetensors'));
  for (const out of ['rate-0', 'steps-0'])
    assert.ok(readFileSync(rlhf.path(out, 'model.safetensors')).equals(start), out);
});

test.run();
