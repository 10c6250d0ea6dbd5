// The page is made from real run folders on disk, and the numbers on it are those of the files.
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { RunContext } from '../../src/context.ts';
import { UsageError } from '../../src/errors.ts';
import { chartsOf, inWords, type Chart } from '../../src/report/charts.ts';
import { escapeHtml, fill, scriptJson } from '../../src/report/html.ts';
import { readRun, thinned } from '../../src/report/run_log.ts';
import { report } from '../../src/stages/report.ts';

const folder = mkdtempSync(join(tmpdir(), 'rlhf-report-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));

const warnings: string[] = [];
const lines = (rows: object[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join('');

function makeRun(name: string, command: string, metrics: object[], settings: object = {}): string {
  const path = join(folder, name);
  mkdirSync(path, { recursive: true });
  writeFileSync(join(path, 'rlhf.json'), JSON.stringify({ command, settings, started: '2025-01-02T03:04:05.000Z' }));
  writeFileSync(join(path, 'metrics.jsonl'), lines(metrics));
  return path;
}

async function reportText({ out = join(folder, 'report.html'), ...settings }: { runs: string[]; samples?: string[]; table?: string; out?: string }): Promise<string> {
  const written: string[] = [];
  const context = { stdout: { write: async (line: string) => void written.push(line) }, warn: (line: string) => void warnings.push(line) } as unknown as RunContext;
  await report({ samples: [], quiet: false, config: undefined, table: undefined, out, ...settings }, context);
  assert.is(JSON.parse(written[0]!).report, out);
  return readFileSync(out, 'utf8');
}

const chartsIn = (html: string): Chart[] =>
  JSON.parse(/<script type="application\/json" id="charts">(.*?)<\/script>/s.exec(html)![1]!);

const fails = async (action: Promise<unknown>, pattern: RegExp): Promise<void> => {
  const error = await action.then(() => undefined, (reason: unknown) => reason);
  assert.instance(error, UsageError);
  assert.match((error as Error).message, pattern);
};

test('curves hold the numbers of metrics.jsonl, by stage', async () => {
  const sft = makeRun('sft', 'train-sft', [
    { step: 1, loss: 6.5, lr: 0.001, grad_norm: 2, tokens: 100 },
    { step: 2, loss: 5.25, eval_loss: 5.5, lr: 0.0005, grad_norm: 1 },
  ]);
  const ppo = makeRun('ppo', 'ppo', [1, 2, 3].map((step) => ({
    step, 'objective/scores': step / 4, 'objective/kl': step * 1.5, 'loss/ptx': 4.5, 'own/metric': -step,
  })), { beta: 0.15 });
  const html = await reportText({ runs: [sft, ppo] });
  const charts = chartsIn(html);
  const byTitle = (title: string) => charts.find((chart) => chart.title === title)!;
  assert.equal(byTitle('Loss').steps, [1, 2]);
  assert.equal(byTitle('Loss').lines.map(({ label, values }) => [label, values]),
    [['training', [6.5, 5.25]], ['held out', [null, 5.5]]]);
  assert.equal(byTitle('Reward').lines[0]!.values, [0.25, 0.5, 0.75]);
  assert.equal(byTitle('KL to the reference').lines[0]!.values, [1.5, 3, 4.5]);
  assert.equal(byTitle('own/metric').lines[0]!.values, [-1, -2, -3], 'unknown metrics are shown too');
  assert.not(charts.some(({ title }) => title === 'Entropy' || title === 'tokens'));
  assert.match(html, /training: 6\.5 at step 1, 5\.25 at step 2, between 5\.25 and 6\.5/);
  assert.match(html, /<th scope="row">beta<\/th><td>0\.15<\/td>/);
});

test('runs of one stage share their charts', async () => {
  const a = makeRun('gamma-0', 'ppo', [{ step: 1, 'objective/kl': 1 }, { step: 2, 'objective/kl': 2 }]);
  const b = makeRun('gamma-1', 'ppo', [{ step: 2, 'objective/kl': 4, 'objective/kl_k3': 5 }]);
  const [chart, ...others] = chartsOf([await readRun(a), await readRun(b)]);
  assert.is(others.length, 0);
  assert.equal(chart!.steps, [1, 2]);
  assert.equal(chart!.lines.map(({ label, run, metric, values }) => [label, run, metric, values]), [
    ['gamma-0: KL', 0, 0, [1, 2]], ['gamma-1: KL', 1, 0, [null, 4]], ['gamma-1: k3 estimate', 1, 1, [null, 5]]]);
});

test('the page loads nothing and no text breaks out of it', async () => {
  const nasty = '</script><img src=x onerror=alert(1)>"\'&';
  const run = makeRun('nasty', 'train-rm', [{ step: 1, [nasty]: 1 }], { note: nasty });
  mkdirSync(join(run, 'rollouts'), { recursive: true });
  writeFileSync(join(run, 'rollouts', 'step-000001.jsonl'), lines([{ prompt: 'old', completion: 'old' }]));
  const episode = { prompt: nasty, completion: nasty, score: 1.5 };
  writeFileSync(join(run, 'rollouts', 'step-000002.jsonl'), lines([episode]));
  const samples = join(folder, 'nasty.jsonl');
  writeFileSync(samples, lines([{ prompt: nasty, completion: nasty }]));
  const table = join(folder, 'nasty.json');
  writeFileSync(table, JSON.stringify({ title: nasty, columns: [nasty], rows: [[nasty]], notes: [nasty] }));
  const html = await reportText({ runs: [run], samples: [samples], table });
  assert.not.match(html, /<img/);
  assert.is(html.match(/<script/g)!.length, 3);
  assert.is(html.match(/<\/script>/g)!.length, 3);
  assert.not.match(html, /(?:src|href)\s*=\s*["']?(?:https?:)?\/\//);
  assert.not.match(html, /@import|url\((?!data:)/);
  assert.match(html, /default-src 'none'/);
  assert.is(chartsIn(html)[0]!.title, nasty);
  assert.match(html, /step-000002/);
  assert.match(html, /score 1\.5/);
});

test('answers stand side by side, for the prompts that all files answer', async () => {
  const run = makeRun('run', 'ppo', [{ step: 1, 'objective/kl': 1 }]);
  const [a, b] = [join(folder, 'sft-greedy.jsonl'), join(folder, 'ppo-greedy.jsonl')];
  writeFileSync(a, lines([
    { prompt: 'only one\n', completion: 'unpaired' },
    { prompt: 'both\n', completion: 'first answer', reward: -0.25 },
  ]));
  writeFileSync(b, lines([{ prompt: 'both\n', completions: ['second answer', 'another'], rewards: [0.5, 1] }]));
  const html = await reportText({ runs: [run], samples: [a, b] });
  assert.match(html, /<h4>sft-greedy <span class="reward">reward -0\.25<\/span><\/h4><p>first answer/);
  assert.match(html, /<h4>ppo-greedy <span class="reward">reward 0\.5<\/span><\/h4><p>second answer/);
  assert.not.match(html, /unpaired|another/);
  assert.equal(warnings, []);
  const c = join(folder, 'apart.jsonl');
  writeFileSync(c, lines([{ prompt: 'neither\n', completion: 'alone' }]));
  assert.not.match(await reportText({ runs: [run], samples: [a, c] }), /unpaired|alone/);
  assert.equal(warnings, ['--samples: no prompt is in all of these files, so the page has no answers side by side']);
});

test('a table file is shown as it is', async () => {
  const run = makeRun('run', 'ppo', []);
  const table = join(folder, 'table.json');
  writeFileSync(table, JSON.stringify({
    title: 'Closing table', columns: ['model', 'KL'], rows: [['SFT', 0], ['PPO', '3.4 [3.1, 3.7]']], notes: ['A note.'],
  }));
  const html = await reportText({ runs: [run], table });
  assert.match(html, /Closing table<\/h2>/);
  assert.match(html, /<th scope="row">PPO<\/th><td>3\.4 \[3\.1, 3\.7\]<\/td>/);
  assert.match(html, /<p>A note\.<\/p>/);
});

test('an unfinished line and values that are no numbers are passed over', async () => {
  const run = makeRun('killed', 'train-sft', [{ step: 1, loss: 3 }, { step: 2, loss: null }, { step: 3, loss: 'x' }]);
  appendFileSync(join(run, 'metrics.jsonl'), '{"step": 4, "lo');
  const { series } = await readRun(run);
  assert.equal([...series], [['loss', { steps: [1], values: [3] }]]);
});

test('bad input is named', async () => {
  const run = makeRun('run', 'ppo', []);
  await fails(reportText({ runs: [folder] }), /: not a run folder, it holds no rlhf\.json$/);
  const broken = makeRun('broken', 'ppo', []);
  writeFileSync(join(broken, 'rlhf.json'), '[1]');
  await fails(reportText({ runs: [broken] }), /rlhf\.json: not the record of a run$/);
  const table = join(folder, 'bad.json');
  writeFileSync(table, '{"columns": ["a", "b"], "rows": [["x"]]}');
  await fails(reportText({ runs: [run], table }), /bad\.json: "rows\[0\]" is not a list of 2$/);
  const samples = join(folder, 'bad.jsonl');
  writeFileSync(samples, '{"prompt": "p"}\n');
  await fails(reportText({ runs: [run], samples: [samples] }), /bad\.jsonl:1: needs "completion" or "completions"/);
});

test('a report replaces an older one and nothing else', async () => {
  const run = makeRun('again', 'ppo', [{ step: 1, 'objective/kl': 1 }]);
  const out = join(folder, 'again.html');
  const first = await reportText({ runs: [run], out });
  appendFileSync(join(run, 'metrics.jsonl'), lines([{ step: 2, 'objective/kl': 2 }]));
  assert.is.not(await reportText({ runs: [run], out }), first);
  await fails(reportText({ runs: [run], out: join(run, 'metrics.jsonl') }), /^--out: .*metrics\.jsonl is a file, and no report$/);
  await fails(reportText({ runs: [run], out: run }), /^--out: a folder, not a file/);
  await fails(reportText({ runs: [run], out: join(folder, 'none', 'report.html') }), /^--out: no such folder: .*none$/);
  assert.is((await readRun(run)).series.get('objective/kl')!.steps.length, 2);
});

test('long series are thinned to means, the last step stays', () => {
  const steps = Array.from({ length: 1000 }, (_, i) => i + 1);
  const { steps: kept, values } = thinned({ steps, values: steps }, 300);
  assert.is(kept.length, 250);
  assert.is(kept.at(-1), 1000);
  assert.is(values[0], 2.5);
  assert.equal(thinned({ steps: [1, 2], values: [3, 4] }), { steps: [1, 2], values: [3, 4] });
});

test('templates and escapes', () => {
  assert.is(fill('<{{a}}>{{b}}', { a: '{{b}}', b: '$&' }), '<{{b}}>$&');
  assert.throws(() => fill('{{missing}}', {}), /missing/);
  assert.is(escapeHtml(`<a b="c">'&`), '&#60;a b=&#34;c&#34;&#62;&#39;&#38;');
  assert.equal(JSON.parse(scriptJson('</script>\u2028')), '</script>\u2028');
  assert.is(inWords({ label: 'x', run: 0, metric: 0, values: [null, 2] }, [1, 2]), 'x: 2 at step 2');
});

test.run();
