// Ranking over real HTTP requests and through the terminal form; what is written trains a reward model.
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { RunContext } from '../../src/context.ts';
import { asRanking } from '../../src/data/rows.ts';
import { Interrupted, UsageError } from '../../src/errors.ts';
import { agreements, readRankings } from '../../src/label/agreement.ts';
import { RankingsFile } from '../../src/label/rankings_file.ts';
import { Session } from '../../src/label/session.ts';
import { rankedIds, readTasks } from '../../src/label/tasks.ts';
import { parseOrder, rankInTerminal } from '../../src/label/terminal.ts';
import { label } from '../../src/stages/label.ts';

const folder = mkdtempSync(join(tmpdir(), 'rlhf-label-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));

let files = 0;
function fileOf(rows: object[], name = `file-${files++}.jsonl`): string {
  const path = join(folder, name);
  writeFileSync(path, rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  return path;
}
const rowsOf = (path: string) => readFileSync(path, 'utf8').trim().split('\n').map((line) => JSON.parse(line));

const answers = [
  { prompt: 'one', completions: ['a', 'b', 'a', 'c'], finish_reason: ['stop', 'stop', 'stop', 'length'], extra: 1 },
  { prompt: 'alike', completions: ['same', 'same'] },
  { prompt: 'two', completions: ['d', 'e'] },
];

/** Starts `label` and waits for its address. */
async function start(settings: object) {
  const interruption = new AbortController();
  const out: string[] = [];
  let ended!: Promise<unknown>;
  const url = await new Promise<string>((resolve, reject) => {
    const context = {
      stdout: { write: async (line: string) => void out.push(line) },
      log: (line: string) => /http:\S+/.test(line) && resolve(/http:\S+/.exec(line)![0]),
      onExit: () => undefined,
      signal: interruption.signal,
    } as unknown as RunContext;
    const all = { seed: 0, port: 0, labeler: 'ann', terminal: false, agreement: false, ...settings };
    ended = label(all as never, context).catch((error: unknown) => error);
    void ended.then((error) => (error ? reject(error) : resolve('')));
  });
  return { url, ended, stop: () => interruption.abort(), out };
}

interface Shown {
  id: string;
  prompt: string;
  answers: string[];
  done: number;
  total: number;
}
const jsonOf = async (response: Response) => (await response.json()) as Shown;
const get = async (url: string) => jsonOf(await fetch(`${url}task`));
const post = (url: string, body: unknown, type = 'application/json') =>
  fetch(url, { method: 'POST', headers: { 'content-type': type }, body: JSON.stringify(body) });

test('a labeler ranks in the browser: rows are written one by one, and a second call goes on', async () => {
  const data = fileOf(answers);
  const out = join(folder, 'rankings.jsonl');
  const first = await start({ data: [data], out });
  const page = await (await fetch(first.url)).text();
  assert.match(page, /Rank the answers/);
  const task = await get(first.url);
  assert.is(task.total, 2, 'answers that are all the same leave nothing to rank');
  assert.is(task.prompt, 'one');
  assert.equal([...task.answers].sort(), ['a', 'b', 'c'], 'each text is shown once');
  const rankOf: Record<string, number> = { a: 2, b: 5, c: 2 };
  const reply = await post(`${first.url}ranking`, { id: task.id, ranks: task.answers.map((text) => rankOf[text]) });
  const next = await jsonOf(reply);
  assert.is(next.prompt, 'two');
  const [row, ...others] = rowsOf(out);
  assert.is(others.length, 0, 'it is in the file before the next prompt is shown');
  assert.equal(row.completions, ['a', 'b', 'a', 'c']);
  assert.equal(row.ranks, [1, 2, 1, 1], 'ranks have no gaps, equal texts tie');
  assert.is(row.labeler, 'ann');
  assert.ok(row.seconds >= 0 && row.seconds < 60);
  assert.is(row.extra, 1);
  assert.equal(asRanking(row).ranks, row.ranks);
  const again = await post(`${first.url}ranking`, { id: task.id, ranks: [1, 1, 1] });
  assert.is(again.status, 409, 'a prompt ranked in another window is not ranked twice');
  first.stop();
  assert.instance(await first.ended, Interrupted);

  const second = await start({ data: [data], out });
  const left = await get(second.url);
  assert.is(left.prompt, 'two');
  assert.is(left.done, 1);
  await post(`${second.url}ranking`, { id: left.id, ranks: [2, 1] });
  assert.is(await second.ended, undefined, 'it ends when all is ranked');
  assert.equal(JSON.parse(second.out[0]!), { out, labeler: 'ann', ranked: 2, total: 2 });
  assert.is(rowsOf(out).length, 2);

  const other = await start({ data: [data], out, labeler: 'ben' });
  assert.is((await get(other.url)).done, 0, 'another labeler ranks them all');
  other.stop();
  await other.ended;
});

test('requests that are wrong or come from elsewhere change nothing', async () => {
  const out = join(folder, 'refused.jsonl');
  const { url, ended, stop } = await start({ data: [fileOf(answers)], out });
  const { id } = await get(url);
  for (const ranks of [undefined, [1], [1, 2, 0], [1, 2, 1.5], ['1', 2, 3], 'abc']) {
    assert.is((await post(`${url}ranking`, { id, ranks })).status, 400, JSON.stringify(ranks));
  }
  assert.is((await post(`${url}ranking`, { id: 'none', ranks: [1, 2, 3] })).status, 409);
  assert.is((await post(`${url}ranking`, { id, ranks: [1, 2, 3] }, 'text/plain')).status, 415);
  const broken = { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{' };
  assert.is((await fetch(`${url}ranking`, broken)).status, 400);
  assert.is((await fetch(`${url}../etc/passwd`)).status, 404);
  assert.is((await post(`${url}ranking`, { id, ranks: 'x'.repeat(2 ** 21) })).status, 413);
  const status = await new Promise((resolve) => {
    const { port } = new URL(url);
    request({ host: '127.0.0.1', port, path: '/task', headers: { host: 'evil.example' } },
      (response) => resolve(response.resume().statusCode)).end();
  });
  assert.is(status, 403, 'another name for this machine is another site');
  assert.is(readFileSync(out, 'utf8'), '');
  const skipped = await jsonOf(await post(`${url}skip`, { id }));
  assert.is.not(skipped.id, id);
  stop();
  await ended;
});

test('the port that is taken is named', async () => {
  const { url, ended, stop } = await start({ data: [fileOf(answers)], out: join(folder, 'a.jsonl') });
  const { port } = new URL(url);
  const error = await start({ data: [fileOf(answers)], out: join(folder, 'b.jsonl'), port: Number(port) })
    .then(() => undefined, (reason: unknown) => reason);
  assert.instance(error, UsageError);
  assert.match((error as Error).message, new RegExp(`^--port: port ${port} is in use$`));
  stop();
  await ended;
});

test('ranking in the terminal, with a mistake and one put off', async () => {
  const data = fileOf(answers);
  const out = join(folder, 'terminal.jsonl');
  const tasks = await readTasks([data], 'cat', 1);
  const file = new RankingsFile(out);
  const session = new Session(tasks, new Set(), file, 'cat');
  const screen = new PassThrough();
  await rankInTerminal(session, Readable.from(['s\n2 > 1\n1 = 4 > 2\n3 > 1 = 2\n']), screen);
  file.close();
  assert.is(session.done, 2);
  const shown = String(screen.read());
  assert.match(shown, /no answer 4/);
  const [two, one] = rowsOf(out);
  assert.is(two.prompt, 'two');
  assert.is(two.ranks[two.completions.indexOf(tasks[1]!.shown[1]!)], 1);
  const best = tasks[0]!.shown[2]!;
  assert.equal(one.ranks, one.completions.map((text: string) => (text === best ? 1 : 2)));
});

test('orders as they are typed', () => {
  assert.equal(parseOrder('2 > 1 = 3', 3), [2, 1, 2]);
  assert.equal(parseOrder('1=2', 2), [1, 1]);
  assert.is(parseOrder('1 > 2', 3), '3 is missing');
  assert.is(parseOrder('1 > 1', 2), '1 stands there twice');
  assert.is(parseOrder('1 > x', 2), 'no answer x');
  assert.is(parseOrder('1 >', 2), 'a number is missing');
});

test('the order of the answers is fixed for a labeler and differs between labelers', async () => {
  const data = fileOf([{ prompt: 'p', completions: [...'abcdefgh'] }]);
  const shown = async (labeler: string) => (await readTasks([data], labeler, 0))[0]!.shown.join('');
  assert.is(await shown('ann'), await shown('ann'));
  assert.is.not(await shown('ann'), await shown('ben'));
  assert.is([...(await shown('ann'))].sort().join(''), 'abcdefgh');
});

test('what a crash left of a row is cut off, a row without line break is kept', async () => {
  const rows = [{ prompt: 'two', completions: ['d', 'e'], ranks: [1, 2], labeler: 'ann' }];
  const cut = fileOf(rows);
  appendFileSync(cut, `{"prompt": "${'long '.repeat(30_000)}`);
  new RankingsFile(cut).close();
  assert.equal(rowsOf(cut), rows);
  const whole = join(folder, 'whole.jsonl');
  writeFileSync(whole, JSON.stringify(rows[0]));
  const file = new RankingsFile(whole);
  file.append('{"second": true}');
  file.close();
  assert.equal(rowsOf(whole), [rows[0], { second: true }]);
  assert.is((await rankedIds(cut, 'ann')).size, 1);
  assert.is((await rankedIds(cut, 'ben')).size, 0);
});

test('rows that leave nothing to rank are refused', async () => {
  const reason = async (rows: object[]) =>
    readTasks([fileOf(rows)], 'ann', 0).then(() => '', (error: Error) => error.message);
  assert.match(await reason([{ prompt: 'p', completion: 'x' }]), /:1: one "completion" leaves nothing to rank$/);
  assert.match(await reason([{ prompt: 'p', completions: ['x', 'x'] }]), /no row has two different answers$/);
  assert.match(await reason([{ prompt: 'p', completions: 'x' }]), /:1: "completions" is a text, expected a list/);
});

test('the terminal shows control characters, and does not obey them', async () => {
  const out = fileOf([], 'controls.jsonl');
  const session = new Session(await readTasks([fileOf([{ prompt: 'p\u001b[2J', completions: ['a\u0007\tb\nc', 'd\u009b1m\u007f'] }])], 'ann', 0),
    new Set(), new RankingsFile(out), 'ann');
  let shown = '';
  const output = new PassThrough();
  output.on('data', (chunk) => (shown += chunk));
  await rankInTerminal(session, Readable.from(['q\n']), output);
  assert.match(shown, /p\u241b\[2J/);
  assert.match(shown, /a\u2407\tb\n {5}c/);
  assert.match(shown, /d\ufffd1m\u2421/);
  assert.not.match(shown, /[\u001b\u0007\u009b\u007f]/);
});

test('agreement counts ties on their own', async () => {
  // ann: a > b > c; ben: a > b = c, his answers in another order. Three pairs: two agree, one is tied by ben alone.
  const ann = fileOf([{ prompt: 'p', completions: ['a', 'b', 'c'], ranks: [1, 2, 3], labeler: 'ann' }]);
  const ben = fileOf([
    { prompt: 'p', completions: ['c', 'a', 'b'], ranks: [2, 1, 2] },
    { prompt: 'q', completions: ['x', 'y'], ranks: [1, 2] },
  ], 'ben.jsonl');
  const [found, ...others] = agreements(await readRankings([ann, ben]));
  assert.is(others.length, 0);
  const { kappa, ...counts } = found!;
  assert.equal(counts, {
    labelers: ['ann', 'ben'], prompts: 1, pairs: 3, agreement: 2 / 3, strict_pairs: 2, strict_agreement: 1,
    both_tied: 0, one_tied: 1,
  });
  // By chance: never both tied, and 1 · 2/3 · 1/2 for the same order; (2/3 − 1/3) / (1 − 1/3).
  assert.ok(Math.abs(kappa! - 0.5) < 1e-12);
});

test('a text that is there several times counts once in agreement', async () => {
  const file = fileOf([
    { prompt: 'p', completions: ['a', 'a', 'a', 'b'], ranks: [1, 1, 1, 2], labeler: 'ann' },
    { prompt: 'p', completions: ['a', 'b', 'a', 'a'], ranks: [2, 1, 2, 2], labeler: 'ben' },
  ]);
  const [found] = agreements(await readRankings([file]));
  assert.equal([found!.pairs, found!.agreement, found!.both_tied, found!.strict_pairs, found!.kappa], [1, 0, 0, 1, -1]);
});

test('agreement of opposite and of equal labelers', async () => {
  const file = fileOf([
    { prompt: 'p', completions: ['a', 'b'], ranks: [1, 2], labeler: 'ann' },
    { prompt: 'p', completions: ['a', 'b'], ranks: [2, 1], labeler: 'ben' },
    { prompt: 'p', completions: ['a', 'b'], ranks: [5, 9], labeler: 'cat' },
  ]);
  const found = agreements(await readRankings([file]));
  assert.equal(found.map(({ labelers, agreement, kappa }) => [labelers.join(), agreement, kappa]),
    [['ann,ben', 0, -1], ['ann,cat', 1, 1], ['ben,cat', 0, -1]]);
});

test.run();
