// The example for a real chat model: its judge by hand, and the whole script on a tiny model.
import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { openGguf } from '../../src/files/gguf.ts';
import { temporaryFolder } from '../files/temporary.ts';

const root = process.env.RLHF_ROOT!;
const scripts = join(root, 'scripts');
const { judge, judged } = await import(join(scripts, 'one-sentence-judge.mjs'));
const { ranked } = await import(join(scripts, 'ranks-from-rewards.mjs'));
const { comparison } = await import(join(scripts, 'smollm2-table.mjs'));
const folder = temporaryFolder();
const near = (value: number, expected: number, what: string): void =>
  assert.ok(Math.abs(value - expected) < 1e-12, `${what}: ${value}, expected ${expected}`);

test('the judge\'s four parts', () => {
  const question = 'Write a short review of the restaurant in Lisbon that serves octopus.';
  // Its own words: short, review, restaurant, lisbon, serves, octopus; three of them are enough.
  const good = judge(question, 'The restaurant in Lisbon has the best octopus.', false);
  assert.equal(good, { score: 2, finished: 1, onTopic: 1, tooLong: 0, repetitive: 0, words: 8 });
  assert.is(judge(question, 'The restaurant in Lisbon has the best octopus.', true).score, 1, 'cut off');
  assert.is(judge(question, 'The restaurant in Lisbon has the best octopus', false).finished, 0, 'no full stop');
  assert.is(judge(question, 'It said "no octopus."', false).finished, 1, 'a quotation at the end');
  assert.is(judge(question, 'No.', false).finished, 0, 'a word is no sentence');
  near(judge(question, 'Lisbon is nice today.', false).onTopic, 1 / 3, 'one of three');
  near(judge('Name a city.', 'Some city it is.', false).onTopic, 1, 'all of one');
  const long = Array.from({ length: 35 }, (_, i) => `w${i}`).join(' ');
  near(judge(question, long, false).tooLong, 10 / 25, 'ten words over');
  near(judge(question, 'so it goes so it goes so it goes', false).repetitive, 4 / 7, 'three runs of seven are new');
  assert.is(judge(question, '', false).score, 0);
});

test('rows are scored and ranked; the prompt may be a conversation', () => {
  const messages = [{ role: 'system', content: 'Be kind.' }, { role: 'user', content: 'Name a fruit.' }];
  const row = judged({ id: 7, messages, completions: ['A fruit is ripe.', 'A fruit is', 'no'], finish_reason: ['stop', 'length', 'stop'] });
  assert.equal(row.rewards, [2, 1, 0]);
  assert.equal(ranked(row).ranks, [1, 2, 3]);
  assert.is(ranked(row).id, 7);
  assert.is(judged({ prompt: 'Name a fruit.', completion: 'A fruit is ripe.', finish_reason: 'length' }).reward, 1);
  assert.equal(ranked({ completions: ['a', 'b'], rewards: [1, 1] }).ranks, [1, 1]);
  assert.throws(() => ranked({ completions: ['a', 'b'], rewards: [1] }), /as many "rewards"/);
  assert.throws(() => ranked({ completions: ['a'], rewards: [null] }), /reward null is not a number/);
});

test('the table pairs answers to the same prompts', () => {
  const row = (prompt: string, completion: string, reward: number) => ({ prompt, completion, finish_reason: 'stop', reward });
  const before = [row('Name a fruit.', 'no', 0), row('Name a city.', 'no', 1)];
  const after = [row('Name a fruit.', 'A fruit is ripe.', 2), row('Name a city.', 'The city is big.', 3)];
  const { columns, rows } = comparison(before, after);
  assert.equal(columns, ['greedy answers', 'judge', 'finished', 'on topic', 'words', 'reward']);
  assert.equal(rows[2], ['change', '2.00 [2.00, 2.00]', '1.00 [1.00, 1.00]', '1.00 [1.00, 1.00]', '3.0 [3.0, 3.0]', '2.00 [2.00, 2.00]']);
  assert.throws(() => comparison(before, [after[1], after[0]]), /row 1 answers another prompt/);
  assert.throws(() => comparison(before, [after[0]]), /2 answers before, 1 after/);
});

/** The program bundled from these sources, as `rlhf` on a path. */
async function program(): Promise<string> {
  const cache = join(root, 'node_modules', '.cache', `rlhf-example-${process.pid}`);
  process.on('exit', () => rmSync(cache, { recursive: true, force: true }));
  const bundle = join(cache, 'cli.mjs');
  await build({
    entryPoints: [join(root, 'src/cli.ts')], outfile: bundle, bundle: true, platform: 'node', format: 'esm', target: 'node20',
    packages: 'external', loader: JSON.parse(readFileSync(join(scripts, 'loaders.json'), 'utf8')), logLevel: 'error',
  });
  const bin = join(folder, 'bin');
  mkdirSync(bin);
  writeFileSync(join(bin, 'rlhf'), `#!/bin/sh\nexec "${process.execPath}" "${bundle}" "$@"\n`);
  chmodSync(join(bin, 'rlhf'), 0o755);
  return bin;
}

test('the whole script on a tiny model: every stage, a GGUF file, a table; run again it does nothing twice', async () => {
  const path = `${await program()}:${process.env.PATH}`;
  const model = join(folder, 'stories');
  cpSync(join(root, 'test/fixtures/models/stories260K'), model, { recursive: true });
  writeFileSync(join(model, 'chat_template.jinja'), '{% for message in messages %}{{ message.content }}\n{% endfor %}');
  const args = ['--no-setup', '--model', 'stories', '--prompts', '4', '--episodes', '8', '--held-out', '3', '--max-new-tokens', '72', '--out', 'run'];
  const run = () => spawnSync('bash', [join(scripts, 'smollm2.sh'), ...args], { cwd: folder, encoding: 'utf8', env: { ...process.env, PATH: path } });
  const first = run();
  assert.is(first.status, 0, first.stderr);
  const rows = (name: string) => readFileSync(join(folder, 'run', name), 'utf8').trim().split('\n').map((line) => JSON.parse(line));
  assert.equal(rows('rankings.jsonl').map(({ ranks, completions }) => [ranks.length, completions.length]), Array(4).fill([4, 4]));
  assert.equal(rows('summaries.jsonl').map(({ command }) => command), ['train-rm', 'ppo', 'export', 'export']);
  assert.ok(existsSync(join(folder, 'run/ppo/adapter_model.safetensors')));
  assert.is(rows('ppo/metrics.jsonl').at(-1).episode, 8);
  const gguf = openGguf(join(folder, 'run/policy.gguf'));
  assert.is(gguf.metadata.get('general.architecture'), 'llama');
  gguf.close();
  for (const { completion, reward } of [...rows('sft-scored.jsonl'), ...rows('ppo-scored.jsonl')]) {
    assert.ok(completion.length > 0 && Number.isFinite(reward));
  }
  assert.match(first.stdout, /^greedy answers  judge .*\nbefore \(SFT\) .*\nafter \(PPO\) .*\nchange /m);
  const written = ['answers.jsonl', 'rm/adapter_model.safetensors', 'ppo/adapter_model.safetensors', 'merged/model.safetensors', 'policy.gguf', 'ppo-scored.jsonl']
    .map((name) => [name, statSync(join(folder, 'run', name)).mtimeMs]);
  const second = run();
  assert.is(second.status, 0, second.stderr);
  for (const [name, time] of written) assert.is(statSync(join(folder, 'run', name as string)).mtimeMs, time, name as string);
  assert.is(second.stdout.split('\n')[1], first.stdout.split('\n')[1]);
});

test('wrong options and a missing pip are said in one line', () => {
  const run = (args: string[], env = {}) =>
    spawnSync('bash', [join(scripts, 'smollm2.sh'), '--no-setup', ...args], { cwd: folder, encoding: 'utf8', env: { ...process.env, ...env } });
  const refused = (pattern: RegExp, args: string[]): void => {
    const { status, stderr } = run(args);
    assert.is(status, 2);
    assert.match(stderr, pattern);
  };
  refused(/^smollm2: unknown option --nothing\n$/, ['--nothing']);
  refused(/^smollm2: --prompts needs a value\n$/, ['--prompts']);
  refused(/^smollm2: --gguf: .*missing\.gguf is not a file\n$/, ['--gguf', 'missing.gguf']);
  refused(/^smollm2: --model: .*missing holds no config.json\n$/, ['--model', 'missing']);
  refused(/exclude each other/, ['--model', 'a', '--gguf', 'b']);
  // A PATH with what the script itself needs, and no Python.
  const bin = join(folder, 'plain');
  mkdirSync(bin);
  for (const tool of ['dirname', 'mkdir', 'date', 'cat', 'bash', 'node']) {
    const found = spawnSync('sh', ['-c', `command -v ${tool}`], { encoding: 'utf8' }).stdout.trim();
    writeFileSync(join(bin, tool), `#!/bin/sh\nexec ${found} "$@"\n`);
    chmodSync(join(bin, tool), 0o755);
  }
  const { status, stderr } = run(['--out', 'none'], { PATH: bin });
  assert.is(status, 2, stderr);
  assert.match(stderr, /no python3 with pip; give --gguf FILE or --model DIR instead/);
});

test.run();
