import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { hostname, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { RunError, UsageError } from '../../src/errors.ts';
import { processSpace } from '../../src/files/process.ts';
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
  mkdirSync(join(out, 'rollouts'));
  for (const name of ['rollouts/step-000001.jsonl', 'mine.jsonl']) writeFileSync(join(out, name), '{}');
  await refused(begin({ out, overwrite: true, data: ['-', join(link, 'rollouts/step-000001.jsonl')] }), /holds what --data names/);
  assert.is(readFileSync(join(out, 'model.safetensors'), 'utf8'), 'weights');
  mkdirSync(`${out}-like`);
  (await openRunFolder(begin({ out, overwrite: true, model: `${out}-like`, reward: 'cmd:judge', data: [join(out, 'mine.jsonl')] }))).dropReplaced();
  assert.not.ok(existsSync(join(out, 'model.safetensors')));
});

test('the folder exists from the start', async () => {
  const options = begin();
  const { out } = options.settings;
  const run = await openRunFolder(options);
  assert.is(run.state, 'new');
  assert.equal(readdirSync(out).sort(), ['checkpoints', 'metrics.jsonl', 'rlhf.json', 'rlhf.lock']);
  await run.note({ adapter: { name: 'x' } });
  await run.noteInputs({ 'a.jsonl': 'ff' }, { model: { 'config.json': 'aa' } });
  const record = json(join(out, 'rlhf.json'));
  assert.equal(
    [record.command, record.settings.lr, record.settings['batch-size'], record.complete],
    ['train-sft', 1e-3, 4, false],
  );
  assert.equal([record.adapter, record.data, record.models], [{ name: 'x' }, { 'a.jsonl': 'ff' }, { model: { 'config.json': 'aa' } }]);
  assert.not.ok('resume' in record.settings);
  await run.end({}, true);
  assert.ok(json(join(out, 'rlhf.json')).complete);
  assert.equal(readdirSync(out).sort(), ['checkpoints', 'metrics.jsonl', 'rlhf.json']);
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
  assert.equal(readdirSync(out).sort(), ['checkpoints', 'metrics.jsonl', 'mine', 'notes.txt', 'replaced-run', 'rlhf.json', 'rlhf.lock']);
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
  await third.end({}, true);
  const fourth = await openRunFolder(begin({ out, resume: true }));
  assert.is(fourth.state, 'complete');
  fourth.close();
});

test('--resume with other settings names them', async () => {
  const options = begin();
  const { out } = options.settings;
  const run = await openRunFolder(options);
  await run.noteInputs({ 'a.jsonl': 'ff' }, { model: { 'config.json': 'aa' } });
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
  await again.noteInputs({ './a.jsonl': 'ff' }, { model: { 'config.json': 'aa' } });
  for (const [data, models, message] of [
    [{ 'a.jsonl': 'ee' }, {}, /^a\.jsonl: not the data that the run in .* began with/],
    [{ './a.jsonl': 'ee' }, {}, /^\.\/a\.jsonl: not the data/],
    [{ 'a.jsonl': 'ff' }, { model: { 'config.json': 'bb' } }, /^--model: config\.json: not the model that the run in .* began with/],
    [{ 'a.jsonl': 'ff' }, { model: { 'config.json': 'aa', 'model.safetensors': 'cc' } }, /^--model: model\.safetensors: not the model/],
    [{ 'a.jsonl': 'ff' }, { model: {} }, /^--model: config\.json: not the model/],
  ] as const) {
    try {
      await again.noteInputs(data, models);
      assert.unreachable('other inputs accepted');
    } catch (error) {
      assert.instance(error, UsageError);
      assert.match((error as Error).message, message);
    }
  }
  again.close();
});

test('--resume knows a path that is written differently', async () => {
  const options = begin({ model: 'base', data: ['a.jsonl'], reward: 'cmd:./judge' });
  const { out } = options.settings;
  (await openRunFolder(options)).close();
  checkpoint(out);
  const resumed = (more: Record<string, unknown>) => begin({ ...options.settings, resume: true, ...more });
  (await openRunFolder(resumed({ model: './base/', data: [resolve('a.jsonl')] }))).close();
  await refused(resumed({ model: 'base2' }), /--model \(was \.\/base\/, now base2\)/);
  await refused(resumed({ data: ['a.jsonl', 'b.jsonl'] }), /--data/);
  await refused(resumed({ reward: 'cmd:judge' }), /--reward/);
});

/** A folder with a finished run and a file of somebody else's; returns what it holds. */
async function finished(out: string): Promise<() => Record<string, string>> {
  const run = await openRunFolder(begin({ out, lr: 7 }));
  run.metrics.append({ step: 1 });
  writeFileSync(join(out, 'config.json'), 'config');
  writeFileSync(join(out, 'model.safetensors'), 'weights');
  mkdirSync(join(out, 'value'));
  writeFileSync(join(out, 'value', 'config.json'), 'value');
  writeFileSync(join(out, 'notes.txt'), 'mine');
  await run.end({}, true);
  return () => Object.fromEntries((readdirSync(out, { recursive: true }) as string[]).sort()
    .filter((name) => statSync(join(out, name)).isFile()).map((name) => [name, readFileSync(join(out, name), 'utf8')]));
}

test('--overwrite keeps the older run until the new one has a checkpoint or its model, and puts it back where it fails', async () => {
  const out = join(base, 'kept');
  const held = await finished(out);
  const before = held();
  const failing = await openRunFolder(begin({ out, overwrite: true }));
  assert.not.ok(existsSync(join(out, 'model.safetensors')), 'an older model does not pass for the new one');
  assert.is(readFileSync(join(out, 'replaced-run', 'model.safetensors'), 'utf8'), 'weights');
  mkdirSync(join(out, 'rollouts'));
  assert.is(failing.close(), true);
  assert.equal(held(), before);
  const working = await openRunFolder(begin({ out, overwrite: true }));
  assert.is(failing.close(), false, 'closed already: what is there is another run\'s');
  assert.ok(existsSync(join(out, 'replaced-run', 'model.safetensors')));
  working.metrics.append({ step: 1 });
  working.close();
  const failed = Object.fromEntries(Object.entries(held()).filter(([name]) => name.startsWith('failed-run')));
  assert.equal(Object.keys(failed), ['failed-run/metrics.jsonl', 'failed-run/rlhf.json']);
  assert.is(failed['failed-run/metrics.jsonl'], '{"step":1}\n');
  assert.equal({ ...failed, ...before }, held());

  // Stopped by Ctrl-C: both are there, until the new one goes on.
  const stopped = await openRunFolder(begin({ out, overwrite: true }));
  checkpoint(out);
  assert.is(stopped.close(), false);
  assert.is(readFileSync(join(out, 'replaced-run', 'model.safetensors'), 'utf8'), 'weights');
  (await openRunFolder(begin({ out, resume: true }))).close();
  assert.not.ok(existsSync(join(out, 'replaced-run')));
  rmSync(out, { recursive: true });
  await finished(out);

  const saving = await openRunFolder(begin({ out, overwrite: true }));
  checkpoint(out);
  saving.dropReplaced();
  saving.close();
  assert.equal(Object.keys(held()), ['metrics.jsonl', 'notes.txt', 'rlhf.json']);
  assert.ok(existsSync(join(out, 'checkpoints', 'step-000005')));

  rmSync(out, { recursive: true });
  await finished(out);
  const finishing = await openRunFolder(begin({ out, overwrite: true }));
  writeFileSync(join(out, 'model.safetensors'), 'new');
  assert.is(finishing.close(), false, 'a model that is whole stays, even if nothing more could be written');
  assert.is(readFileSync(join(out, 'model.safetensors'), 'utf8'), 'new');
  const last = await openRunFolder(begin({ out, overwrite: true }));
  writeFileSync(join(out, 'model.safetensors'), 'newer');
  await last.end({}, true);
  assert.equal(Object.keys(held()), ['metrics.jsonl', 'model.safetensors', 'notes.txt', 'rlhf.json']);
});

test('a run that is killed before its first checkpoint leaves the older one in replaced-run/', async () => {
  const out = join(base, 'killed');
  const held = await finished(out);
  const before = held();
  const killed = (): void => {
    // What is left where a process ends at once: all of it, and a lock that nobody holds.
    writeFileSync(join(out, 'rlhf.lock'), '{"pid":1,"host":"elsewhere","started":""}');
    utimesSync(join(out, 'rlhf.lock'), 0, 0);
  };
  const first = await openRunFolder(begin({ out, overwrite: true }));
  first.metrics.close();
  killed();
  await refused(begin({ out }), /holds an older run in replaced-run\//);
  // Going on begins anew, and comes to nothing once more.
  const second = await openRunFolder(begin({ out, resume: true }));
  assert.is(second.state, 'started');
  second.metrics.close();
  killed();
  (await openRunFolder(begin({ out, overwrite: true }))).close();
  assert.equal(held(), before);
  // Killed while the new model was being moved in, its weights last
  const third = await openRunFolder(begin({ out, overwrite: true }));
  third.metrics.close();
  killed();
  for (const name of ['config.json', 'tokenizer.json']) writeFileSync(join(out, name), 'a part');
  await refused(begin({ out, overwrite: true, model: join(out, 'replaced-run') }), /holds what --model names/);
  (await openRunFolder(begin({ out, overwrite: true }))).close();
  assert.equal(held(), before);
  // Killed while the older run was being moved
  mkdirSync(join(out, 'replaced-run.moving'));
  for (const name of ['model.safetensors', 'value']) renameSync(join(out, name), join(out, 'replaced-run.moving', name));
  await refused(begin({ out }), /holds a model/);
  assert.equal(held(), before);
});

test('two runs do not work in one folder', async () => {
  const options = begin();
  const { out } = options.settings;
  const run = await openRunFolder(options);
  for (const more of [{}, { overwrite: true }, { resume: true }]) await refused(begin({ out, ...more }), new RegExp(`^--out: process ${process.pid} is working in `));
  run.close();
  (await openRunFolder(options)).close();

  // Held by another process, as long as it lives.
  const other = spawn(process.execPath, ['-e', `
    const { writeFileSync, readFileSync } = require('node:fs');
    let started = '';
    try {
      const stat = readFileSync('/proc/self/stat', 'latin1');
      started = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] + ' ' + readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
    } catch {}
    writeFileSync(${JSON.stringify(join(out, 'rlhf.lock'))}, JSON.stringify({ pid: process.pid, host: require('node:os').hostname(), space: ${JSON.stringify(processSpace())}, started }));
    console.log('held');
    setInterval(() => {}, 1000);
  `]);
  await once(other.stdout, 'data');
  await refused(options, new RegExp(`^--out: process ${other.pid} is working in `));
  other.kill('SIGKILL');
  await once(other, 'exit');
  (await openRunFolder(options)).close();

  // A number that another process has by now, a lock of another machine, and one of which only a part was written
  for (const text of [
    JSON.stringify({ pid: process.pid, host: hostname(), space: processSpace(), started: '1 of another boot' }),
    JSON.stringify({ pid: process.pid, host: `${hostname()}-2`, space: '', started: '' }),
    JSON.stringify({ pid: process.pid, host: hostname(), space: 'pid:[1]', started: '' }),
    '{"pid":',
  ]) {
    writeFileSync(join(out, 'rlhf.lock'), text);
    utimesSync(join(out, 'rlhf.lock'), 0, 0);
    (await openRunFolder(options)).close();
    assert.not.ok(existsSync(join(out, 'rlhf.lock')));
  }
  // Of a process elsewhere is known whether it touches its lock, as this run does.
  for (const [text, message] of [['{"pid":7,"host":"other","space":"","started":""}', /^--out: process 7 of other is working in /], ['', /^--out: another run is working in /]] as const) {
    writeFileSync(join(out, 'rlhf.lock'), text);
    const touching = setInterval(() => utimesSync(join(out, 'rlhf.lock'), new Date(), new Date()), 300);
    await refused(options, message);
    clearInterval(touching);
  }
  const began = Date.now();
  const last = await openRunFolder(options);
  assert.ok(Date.now() - began > 5000, 'it waits before it takes a lock that was touched just now');
  const touched = statSync(join(out, 'rlhf.lock')).mtimeMs;
  await new Promise((resolve) => setTimeout(resolve, 2600));
  assert.ok(statSync(join(out, 'rlhf.lock')).mtimeMs > touched);
  last.close();
});

test('--overwrite knows what the run reads however OUT is written, and the models below an adapter', async () => {
  const out = join(base, 'below');
  await finished(out);
  for (const way of [`${base}/nowhere/../below`, `${base}/a/b/../../below/`, join(out, '.')]) await refused(begin({ out: way, overwrite: true, model: out }), /holds what --model names/);
  const adapter = join(base, 'adapter');
  mkdirSync(adapter);
  const config = { peft_type: 'LORA', task_type: 'CAUSAL_LM', r: 2, lora_alpha: 4, target_modules: ['q_proj'], base_model_name_or_path: out };
  writeFileSync(join(adapter, 'adapter_config.json'), JSON.stringify(config));
  writeFileSync(join(adapter, 'adapter_model.safetensors'), Buffer.from([2, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0x7d])); // {}
  await refused(begin({ out, overwrite: true, reward: adapter }), /holds what --reward names/);
  assert.ok(existsSync(join(out, 'model.safetensors')));
});

test('--resume from another folder knows relative paths, and the record has what the run goes on with', async () => {
  const options = begin({ model: 'base', data: ['a.jsonl'], maxSteps: 5, out: join(base, 'elsewhere') });
  const { out } = options.settings;
  const run = await openRunFolder(options);
  await run.noteInputs({ 'a.jsonl': 'ff' });
  run.close();
  checkpoint(out);
  const home = process.cwd();
  process.chdir(base);
  try {
    await refused(begin({ ...options.settings, resume: true }), /--model \(was \/.*base, now base\)/);
    const again = await openRunFolder(begin({ ...options.settings, resume: true, model: join(home, 'base'), data: [join(home, 'a.jsonl')], maxSteps: 9 }));
    try {
      await again.noteInputs({ [join(home, 'a.jsonl')]: 'ee' });
      assert.unreachable();
    } catch (error) {
      assert.match((error as Error).message, /a\.jsonl: not the data/);
    }
    again.close();
  } finally {
    process.chdir(home);
  }
  assert.equal([json(join(out, 'rlhf.json')).settings['max-steps'], json(join(out, 'rlhf.json')).cwd], [9, realpathSync(base)]);
});

test('a folder that no run has written keeps all it holds', async () => {
  const out = join(base, 'project');
  mkdirSync(join(out, 'raw'), { recursive: true });
  writeFileSync(join(out, 'raw', 'data.jsonl'), 'x');
  writeFileSync(join(out, 'tokenizer.json'), 'y');
  (await openRunFolder(begin({ out }))).close();
  (await openRunFolder(begin({ out, resume: true }))).close();
  assert.is(readFileSync(join(out, 'raw', 'data.jsonl'), 'utf8'), 'x');
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
