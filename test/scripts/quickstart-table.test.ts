// The closing table: each number against one worked out by hand, and the whole script on files as quickstart.sh leaves.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const root = process.env.RLHF_ROOT ?? '.';
const script = join(root, 'scripts/quickstart-table.mjs');
const { cell, klUnits, pairUnits, plainTable, markdownTable, proseLoss } = await import(script);
const { asUnits, generator, interval, pairedInterval, shuffled } = await import(join(root, 'scripts/bootstrap.mjs'));
const { bestOf } = await import(join(root, 'scripts/best-of-n.mjs'));

const folder = mkdtempSync(join(tmpdir(), 'rlhf-table-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));

test('an interval covers the mean of a known distribution', () => {
  // 400 draws of 0 or 1 with mean 0.3: standard error √(.3·.7/400) = 0.0229, so the interval is about ± 0.045.
  const { mean, low, high } = interval(asUnits(Array.from({ length: 400 }, (_, i) => Number(i % 10 < 3))));
  assert.ok(Math.abs(mean - 0.3) < 1e-12);
  assert.ok(Math.abs(high - 0.345) < 0.008 && Math.abs(low - 0.255) < 0.008, `${low} ${high}`);
});

test('ratios weigh prompts by their denominators', () => {
  const units = [{ numerator: 1, denominator: 2 }, { numerator: 0, denominator: 8 }];
  assert.is(interval(units).mean, 0.1);
  const doubled = units.map(({ numerator, denominator }) => ({ numerator: 2 * numerator, denominator }));
  assert.ok(Math.abs(pairedInterval(units, doubled).mean - 0.1) < 1e-12);
  assert.throws(() => pairedInterval(units, [units[0]]), /cannot pair 2 prompts with 1/);
});

test('pairing finds a small steady difference that separate intervals hide', () => {
  const before = asUnits(Array.from({ length: 200 }, (_, i) => i % 50));
  const after = before.map(({ numerator }: { numerator: number }) => ({ numerator: numerator - 0.1, denominator: 1 }));
  const [a, b] = [interval(before), interval(after)];
  assert.ok(b.high > a.low, 'the separate intervals overlap');
  assert.ok(pairedInterval(before, after).high < 0);
});

test('random numbers are even and a shuffle loses nothing', () => {
  const random = generator(7);
  const counts = Array<number>(10).fill(0);
  for (let i = 0; i < 10_000; i++) counts[Math.floor(random() * 10)]! += 1;
  // 1,000 expected each; the standard deviation is 30.
  for (const count of counts) assert.ok(Math.abs(count - 1000) < 150, String(counts));
  const items = Array.from({ length: 50 }, (_, i) => i);
  const mixed = shuffled(items, generator(1));
  assert.equal([...mixed].sort((x: number, y: number) => x - y), items);
  assert.is.not(mixed.join(), items.join());
  assert.equal(mixed, shuffled(items, generator(1)));
});

test('KL, pairs and the best of n', () => {
  const own = [{ prompt: 'a', sum: -3 }, { prompt: 'b', sum: -1 }];
  const reference = [{ prompt: 'a', sum: -5 }, { prompt: 'b', sum: -1.5 }];
  assert.is(interval(klUnits(own, reference)).mean, 1.25);
  assert.throws(() => klUnits(own, [...reference].reverse()), /different rows/);
  // Strict pairs 1–2, 1–2', none between the tied; one in order, one with equal rewards.
  assert.equal(pairUnits([{ ranks: [1, 2, 2], rewards: [0.5, 0.5, 0.1] }]), [{ numerator: 1.5, denominator: 2 }]);
  const finish = ['stop', 'length', 'stop'];
  const row = { prompt: 'p', completions: ['x', 'y', 'z'], rewards: [1, 3, 9], finish_reason: finish };
  assert.equal(bestOf(row, 2), { prompt: 'p', completion: 'y', finish_reason: 'length', reward: 3, n: 2 });
  assert.throws(() => bestOf(row, 4), /a row has 3/);
});

test('cells and layouts', () => {
  assert.is(cell({ mean: -0.12345, low: -0.2, high: 0 }, 2), '−0.12 [−0.20, 0.00]');
  assert.is(cell({ mean: -0.001 }, 2), '0.00');
  assert.is(cell(undefined, 2), '–');
  assert.equal(proseLoss([{ loss: 4.2, loss_interval: [4.1, 4.3] }]), { mean: 4.2, low: 4.1, high: 4.3 });
  assert.throws(() => proseLoss([{}]), /no "loss"/);
  const table = { columns: ['model', 'aa', 'bb'], rows: [['x', '1', '2']] };
  assert.is(plainTable(table), 'model  aa  bb\nx      1   2');
  assert.is(plainTable(table, 10), 'model  aa\nx      1\n\nmodel  bb\nx      2');
  assert.is(markdownTable(table), '| model | aa | bb |\n| --- | --- | --- |\n| x | 1 | 2 |');
});

/** Files as quickstart.sh leaves them: SFT loses the food and one price, PPO neither, PPO with γ 1 makes up a pub. */
function quickstartFolder(): string {
  const path = join(folder, 'run');
  mkdirSync(join(path, 'eval'), { recursive: true });
  const names = ['Aromi', 'Cocum', 'Cotto', 'Strada', 'Zizzi', 'Clowns'];
  const write = (name: string, rows: object[]) =>
    writeFileSync(join(path, 'eval', name), rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  const answers: Record<string, (name: string) => string> = {
    sft: (name) => `${name}.`,
    ppo: (name) => `${name} serves English food.`,
    'ppo-ptx': (name) => `${name} is a pub with English food.`,
  };
  const prompts = names.map((name) => `name[${name}], food[English]\n`);
  for (const [p, [policy, answer]] of Object.entries(answers).entries()) {
    const rows = prompts.map((prompt, i) => ({ prompt, completion: answer(names[i]!), reward: p + (i % 2) / 10 }));
    write(`${policy}-greedy.jsonl`, rows);
    write(`${policy}-sampled.jsonl`, rows);
    write(`${policy}-logprobs.jsonl`, rows.map((row) => ({ ...row, tokens: Array(20 + p).fill(1), sum: -10 })));
    write(`${policy}-logprobs-sft.jsonl`, rows.map((row) => ({ ...row, tokens: [1], sum: -10 - 4 * p })));
    write(`${policy}-prose.jsonl`, [{ loss: 4.3 - 0.1 * p }]);
  }
  const best = prompts.map((prompt, i) => ({ prompt, completion: `${names[i]} English`, reward: 1.5 }));
  write('sft-best-of-4.jsonl', best);
  write('references.jsonl', prompts.map((prompt, i) => ({ prompt, completion: `${names[i]}: English food.` })));
  write('rm-held-out.jsonl', [{ prompt: 'p', completions: ['a', 'b'], ranks: [1, 2], rewards: [1, 0] }]);
  return path;
}

test('the script prints the table, what is met and what is not, and writes it as JSON', () => {
  const path = quickstartFolder();
  const json = join(folder, 'table.json');
  const { stdout, stderr, status } = spawnSync(process.execPath, [script, path, '--json', json], { encoding: 'utf8' });
  assert.is(stderr, '');
  assert.is(status, 0);
  const { columns, rows, notes } = JSON.parse(readFileSync(json, 'utf8'));
  assert.equal(rows.map(([name]: string[]) => name),
    ['human references', 'SFT', 'SFT, best of 4', 'PPO, γ 0', 'PPO, γ 1']);
  const at = (row: number, column: string) => rows[row][columns.indexOf(column)];
  assert.match(at(1, 'slots missing'), /^0\.500 /);
  assert.match(at(3, 'slots missing'), /^0\.000 /);
  assert.match(at(4, 'slots made up'), /^0\.500 /);
  assert.match(at(4, 'sum'), /^0\.500 /);
  assert.match(at(3, 'reward'), /^1\.05 /);
  assert.match(at(2, 'reward'), /^1\.50 /);
  assert.match(at(1, 'KL (nats)'), /^0\.00 /);
  assert.match(at(4, 'KL (nats)'), /^8\.00 /);
  assert.match(at(3, 'tokens'), /^21\.0 /);
  assert.is(at(3, 'loss on prose'), '4.200');
  assert.match(notes[0], /1\.000 \[1\.000, 1\.000\] of the strict pairs of 1 held-out/);
  assert.match(stdout, /^yes  PPO, γ 0: missing slots fall \(−0\.500 \[−0\.500, −0\.500\] against SFT\)$/m);
  assert.match(stdout, /^yes  PPO, γ 1: missing and made-up slots together do not rise \(0\.000/m);
  assert.match(stdout, /^NO {3}PPO, γ 1: KL at most 6 nats \(8\.00/m);
  assert.match(stdout, /^yes  γ 1 ends with less loss on prose than γ 0 \(4\.100, 4\.200\)$/m);
  assert.match(stdout, /^ {2}PPO, γ 0: Aromi serves English food\.$/m);
});

test('several folders make one Markdown table', () => {
  const path = quickstartFolder();
  const { stdout } = spawnSync(process.execPath, [script, '--markdown', path, path], { encoding: 'utf8' });
  const lines = stdout.trim().split('\n');
  assert.is(lines.length, 2 + 2 * 3);
  assert.match(lines[2]!, /^\| SFT \(run\) \| 0\.05 /);
});

test('a folder without results is named', () => {
  const { stderr, status } = spawnSync(process.execPath, [script, join(folder, 'nothing')], { encoding: 'utf8' });
  assert.is(status, 2);
  assert.match(stderr, /^quickstart-table: ENOENT.*nothing/);
});

test.run();
