// The plots of cost against size: the ticks and proportions by hand, and the whole script in its smallest form.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { buildWholeProgram, jsonLines } from '../properties/program.ts';

const root = process.env.RLHF_ROOT ?? '.';
const { operations, secondsPerToken } = await import(join(root, 'scripts/scale.mjs'));
const { excess, expected, logTicks, page } = await import(join(root, 'scripts/scale-page.mjs'));

test('ticks, medians and proportions', () => {
  assert.equal(logTicks(80, 120_000), [100, 1000, 10_000, 100_000]);
  assert.equal(logTicks(2, 14), [2, 5, 10]);
  assert.equal(expected([{ x: 1, y: 9 }, { x: 2, y: 6 }], [1, 3]), [[1, 2], [2, 6]]);
  assert.is(excess([{ x: 1, y: 9 }, { x: 2, y: 6 }], [1, 3]), 4.5);
  const steps = [[90, 1], [80, 1], [70, 1], [4, 2], [3, 1], [9, 3], [50, 10]].map(([seconds, tokens]) => JSON.stringify({ seconds, tokens }));
  assert.is(secondsPerToken(`${steps.join('\n')}\n`), 3);
  // Two layers of width 64: 4·64² of attention and 3·64·172 of the MLP each, a vocabulary of 512, pairs of a context of 128.
  assert.is(operations({ width: 64, context: 128 }), 6 * (2 * (16384 + 33024) + 32768) + 6 * 2 * 64 * 128);
});

test('a sentence stands where a curve is not what it should be, and only there', () => {
  const cost = (panel: string, costs: number[]) => costs.map((seconds, i) =>
    ({ panel, x: 64 * 2 ** i, seconds_per_token: seconds * 1e-6, operations: 1e6 * 2 ** i }));
  const rows = [['score', 100, 1, 1e8], ['score', 1000, 2, 1.1e8], ['judge', 100, 1, 3e7], ['judge', 1e4, 1, 5e7], ['judge', 1e5, 2, 5e7], ['judge', 1e6, 20, 8e7],
    ['train-sft', 100, 1, 1e8], ['train-sft', 1000, 1.25, 1.9e8]]
    .map(([command, x, seconds, peak]) => ({ panel: 'rows', command, x, seconds, peak_bytes: peak }));
  const html: string = page([...cost('context', [10, 20.5, 40]), ...cost('width', [30, 35, 40]), ...cost('answers', [10, 10, 10.5]), ...rows]);
  assert.match(html, /10 µs a token at 64, 40 µs at 256: as it should be/);
  assert.match(html, /30 µs a token at 64, 40 µs at 256\. At width 64 a token costs 3\.0 times what its operations would/);
  assert.match(html, /10 µs a token at 64, 10\.5 µs at 256: as it should be/);
  assert.match(html, /read grow, .*\(score × 1\.10 from 100 to 1,000 rows, 500 a second; judge × 1\.60 from 100,000 to 1,000,000 rows, 50,000 a second; starting/);
  assert.match(html, /train-sft is linear .* about 100,000 bytes a row .*\(train-sft × 1\.90 from 100 to 1,000 rows, 800 a second\)/);
  const alone: string = page(rows.filter(({ command }) => command === 'score'));
  assert.match(alone, /stay flat \(score × 1\.10/);
  assert.is(alone.match(/<svg/g)!.length, 1, 'a panel that was not measured is left out');
});

test('the whole script in its smallest form', async () => {
  const rlhf = await buildWholeProgram();
  const out = rlhf.path('scale');
  const { status, stderr } = spawnSync(process.execPath,
    [join(root, 'scripts/scale.mjs'), '--smallest', '--program', rlhf.path('program', 'cli.mjs'), '--out', out], { encoding: 'utf8' });
  assert.is(status, 0, stderr);
  const points = jsonLines(readFileSync(join(out, 'scale.jsonl'), 'utf8'));
  const of = (panel: string) => points.filter((point) => point.panel === panel);
  assert.equal(['context', 'width', 'answers'].map((panel) => of(panel).map(({ x }) => x)), [[64, 128], [32, 64], [2, 4]]);
  for (const { seconds_per_token: seconds } of points.filter(({ panel }) => panel !== 'rows')) assert.ok(seconds > 1e-7 && seconds < 0.1, `${seconds} s`);
  assert.equal(of('rows').map(({ command, x }) => [command, x]), [
    ...['sample', 'logprobs', 'score', 'judge', 'label --agreement', 'train-sft'].map((command) => [command, 100]),
    ...['judge', 'label --agreement'].map((command) => [command, 1000]), // more, since they know no model
  ]);
  for (const { peak_bytes: peak } of of('rows')) assert.ok(peak > 20 * 2 ** 20 && peak < 4 * 2 ** 30, `${peak} bytes`);
  const html = readFileSync(join(out, 'scale.html'), 'utf8');
  assert.is(html.match(/<svg/g)!.length, 4);
  assert.is(html.match(/<circle/g)!.length, 2 + 2 + 2 + 8);
  assert.not.match(html, /NaN|undefined|Infinity/);
  for (const wrong of [['--rows', 'many'], ['--only', 'colours']]) assert.is(spawnSync(process.execPath, [join(root, 'scripts/scale.mjs'), ...wrong]).status, 2);
  rlhf.remove();
});

test.run();
