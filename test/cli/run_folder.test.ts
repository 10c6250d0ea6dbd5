import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { RunError, UsageError } from '../../src/errors.ts';
import { openRunFolder } from '../../src/run_folder.ts';

const test = suite('run folder');
const base = mkdtempSync(join(tmpdir(), 'rlhf-run-'));
test.after(() => rmSync(base, { recursive: true }));
let count = 0;

function begin(more: Record<string, unknown> = {}) {
  const out = (more.out as string) ?? join(base, `run${count++}`);
  return {
    kind: 'train-sft',
    settings: { out, resume: false, overwrite: false, lr: 1e-3, batchSize: 4, maxSteps: undefined, ...more },
  };
}

async function refused(options: ReturnType<typeof begin>, message: RegExp, kind: Function = UsageError): Promise<void> {
  try {
    await openRunFolder(options);
  } catch (error) {
    assert.ok(error instanceof (kind as typeof UsageError), String(error));
    assert.match((error as Error).message, message);
    return;
  }
  assert.unreachable('accepted');
}

const json = (path: string) => JSON.parse(readFileSync(path, 'utf8'));
const checkpoint = (out: string, step = 5) =>
  mkdirSync(join(out, 'checkpoints', `step-00000${step}`), { recursive: true });

test('--overwrite does not remove a model that the run reads', async () => {
  const first = begin();
  const { out } = first.settings;
  (await openRunFolder(first)).close();
  writeFileSync(join(out, 'model.safetensors'), 'weights');
  const link = join(base, 'link');
  symlinkSync(out, link);
  for (const [option, read] of [['model', out], ['policy', `${out}/`], ['reward', link], ['reference', join(out, 'checkpoints')], ['value', join(link, '.')]]) {
    await refused(begin({ out, overwrite: true, [option]: read }), new RegExp(`^--out: .* holds what --${option} names`));
  }
  await refused(begin({ out, overwrite: true, selectByReward: out }), /holds what --select-by-reward names/);
  assert.is(readFileSync(join(out, 'model.safetensors'), 'utf8'), 'weights');
  mkdirSync(`${out}-like`);
  (await openRunFolder(begin({ out, overwrite: true, model: `${out}-like`, reward: 'cmd:judge' }))).close();
  assert.not.ok(existsSync(join(out, 'model.safetensors')));
});

test('the folder exists from the start', async () => {
  const options = begin();
  const { out } = options.settings;
  const run = await openRunFolder(options);
  assert.is(run.state, 'new');
  assert.equal(readdirSync(out).sort(), ['checkpoints', 'metrics.jsonl', 'rlhf.json']);
  await run.note({ adapter: { name: 'x' } });
  await run.noteData({ 'a.jsonl': 'ff' });
  const record = json(join(out, 'rlhf.json'));
  assert.equal(
    [record.command, record.settings.lr, record.settings['batch-size'], record.complete],
    ['train-sft', 1e-3, 4, false],
  );
  assert.equal([record.adapter, record.data], [{ name: 'x' }, { 'a.jsonl': 'ff' }]);
  assert.not.ok('resume' in record.settings);
  await run.finish();
  assert.ok(json(join(out, 'rlhf.json')).complete);
});

test('a model or checkpoints are not written over unasked', async () => {
  const options = begin();
  const { out } = options.settings;
  (await openRunFolder(options)).close();
  (await openRunFolder(options)).close(); // nothing there yet that could be lost
  checkpoint(out);
  await refused(options, /--out: .* holds checkpoints/);
  rmSync(join(out, 'checkpoints'), { recursive: true });
  writeFileSync(join(out, 'model.safetensors'), 'x');
  await refused(options, /--out: .* holds a model/);
  assert.is(readFileSync(join(out, 'model.safetensors'), 'utf8'), 'x');
});

test('a folder of an unfinished checkpoint counts as empty', async () => {
  const options = begin();
  mkdirSync(join(options.settings.out, 'checkpoints', 'step-000005.tmp-1-00000000'), { recursive: true });
  (await openRunFolder(options)).close();
});

test('--overwrite removes what a run wrote and nothing else', async () => {
  const options = begin();
  const { out } = options.settings;
  const run = await openRunFolder(options);
  run.metrics.append({ step: 1 });
  run.close();
  checkpoint(out);
  for (const name of ['model-00001-of-00002.safetensors', 'config.json', 'notes.txt'])
    writeFileSync(join(out, name), 'x');
  mkdirSync(join(out, 'mine'));
  const again = await openRunFolder(begin({ out, overwrite: true, lr: 2 }));
  assert.is(again.state, 'new');
  assert.equal(readdirSync(out).sort(), ['checkpoints', 'metrics.jsonl', 'mine', 'notes.txt', 'rlhf.json']);
  assert.equal([readdirSync(join(out, 'checkpoints')), readFileSync(join(out, 'metrics.jsonl'), 'utf8')], [[], '']);
  again.close();
});

test('--resume goes on, starts anew without a checkpoint, and knows a finished run', async () => {
  const options = begin();
  const { out } = options.settings;
  const first = await openRunFolder(begin({ out, resume: true }));
  assert.is(first.state, 'new');
  first.metrics.append({ step: 1 });
  first.close();
  const second = await openRunFolder(begin({ out, resume: true }));
  assert.is(second.state, 'started');
  assert.is(readFileSync(join(out, 'metrics.jsonl'), 'utf8'), '');
  second.metrics.append({ step: 1 });
  second.close();
  checkpoint(out);
  const third = await openRunFolder(begin({ out, resume: true }));
  assert.is(third.state, 'resumable');
  assert.is(readFileSync(join(out, 'metrics.jsonl'), 'utf8'), '{"step":1}\n');
  await third.finish();
  const fourth = await openRunFolder(begin({ out, resume: true }));
  assert.is(fourth.state, 'complete');
  fourth.close();
});

test('--resume with other settings names them', async () => {
  const options = begin();
  const { out } = options.settings;
  const run = await openRunFolder(options);
  await run.noteData({ 'a.jsonl': 'ff' });
  run.close();
  checkpoint(out);
  await refused(
    begin({ out, resume: true, lr: 2e-3, batchSize: 8 }),
    /--batch-size \(was 4, now 8\), --lr \(was 0.001, now 0.002\)/,
  );
  await refused(begin({ out, resume: true, beta: 1 }), /--beta \(was null, now 1\)/);
  await refused({ ...begin({ out, resume: true }), kind: 'ppo' }, /one of train-sft, not ppo/);
  const again = await openRunFolder(
    begin({ out, resume: true, maxSteps: 7, saveEvery: 3, device: 'x', memory: 5, quiet: true }),
  );
  assert.is(again.state, 'resumable');
  try {
    await again.noteData({ 'a.jsonl': 'ee' });
    assert.unreachable('other data accepted');
  } catch (error) {
    assert.instance(error, UsageError);
    assert.match((error as Error).message, /a\.jsonl: not the data/);
  }
  again.close();
});

test('broken records and files in the way are told', async () => {
  const options = begin({ resume: true });
  const { out } = options.settings;
  checkpoint(out);
  await refused(options, /no rlhf.json/);
  for (const text of ['', '{', '[]', '{"command":1,"settings":{}}', 'null']) {
    writeFileSync(join(out, 'rlhf.json'), text);
    await refused(options, /rlhf\.json: not the record of a run/);
  }
  writeFileSync(join(base, 'file'), '');
  await refused(begin({ out: join(base, 'file') }), /--out: a file is in the way/);
  await refused(begin({ out: join(base, 'file', 'below') }), /a file is in the way/, RunError);
});

test('appending to a full disk fails the run', async () => {
  if (!existsSync('/dev/full')) return;
  const { MetricsLog } = await import('../../src/metrics_log.ts');
  const log = new MetricsLog('/dev/full');
  try {
    log.append({ step: 1 });
    assert.unreachable('written');
  } catch (error) {
    assert.instance(error, RunError);
    assert.match((error as Error).message, /disk is full/);
  }
});

test('metrics are cut back to a step, and a torn last line goes', async () => {
  const run = await openRunFolder(begin());
  const path = join(run.path, 'metrics.jsonl');
  for (let step = 1; step <= 5; step++) run.metrics.append({ step, loss: step / 3, note: 'é' });
  run.metrics.append({ step: 5, eval_loss: NaN });
  run.metrics.sync();
  appendFileSync(path, '{"step":6,"lo');
  const lines = () => readFileSync(path, 'utf8').split('\n');
  run.metrics.cutBack(9);
  assert.is(lines().length, 7);
  assert.is(lines()[5], '{"step":5,"eval_loss":null}');
  run.metrics.cutBack(3);
  assert.equal(
    lines().map((line) => line && JSON.parse(line).step),
    [1, 2, 3, ''],
  );
  run.metrics.append({ step: 4 });
  assert.is(lines()[3], '{"step":4}');
  run.metrics.cutBack(0);
  assert.is(readFileSync(path, 'utf8'), '');
  run.close();
});

test.run();
