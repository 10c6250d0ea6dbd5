// What becomes of an older run under --overwrite.
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { openRunFolder } from '../../src/run_folder.ts';
import { base, begin, checkpoint, finished, refused } from './run_folders.ts';

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

test('a folder that no run has written keeps all it holds', async () => {
  const out = join(base, 'project');
  mkdirSync(join(out, 'raw'), { recursive: true });
  writeFileSync(join(out, 'raw', 'data.jsonl'), 'x');
  writeFileSync(join(out, 'tokenizer.json'), 'y');
  (await openRunFolder(begin({ out }))).close();
  (await openRunFolder(begin({ out, resume: true }))).close();
  assert.is(readFileSync(join(out, 'raw', 'data.jsonl'), 'utf8'), 'x');
});

test.run();
