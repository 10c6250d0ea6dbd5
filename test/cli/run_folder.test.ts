import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, readdirSync, realpathSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { UsageError } from '../../src/errors.ts';
import { processSpace } from '../../src/files/process.ts';
import { openRunFolder } from '../../src/run_folder.ts';
import { base, begin, checkpoint, json, refused } from './run_folders.ts';

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

test('--resume goes on with a run of a version that had more options', async () => {
  const options = begin({ bootstrap: 1000 });
  (await openRunFolder(options)).close();
  checkpoint(options.settings.out);
  await refused(begin({ out: options.settings.out, resume: true, bootstrap: undefined }), /--bootstrap \(was 1000, now null\)/);
  (await openRunFolder(begin({ out: options.settings.out, resume: true }))).close();
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
  await refused(begin({ out: join(base, 'file') }), /--out: .*file is a file, not a folder/);
  await refused(begin({ out: join(base, 'file', 'below') }), /--out: .*file is a file, not a folder/);
});

test.run();
