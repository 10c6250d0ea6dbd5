import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { commands } from '../../src/commands/index.ts';
import { readCall } from '../../src/command_line.ts';
import { UsageError } from '../../src/errors.ts';
import type { PpoSettings, PretrainSettings, SampleSettings, SftSettings } from '../../src/options.ts';
import { namedSettings, resolveSettings } from '../../src/settings.ts';

const test = suite('settings');
const folder = mkdtempSync(join(tmpdir(), 'rlhf-settings-'));
const at = (name: string): string => join(folder, name);
mkdirSync(at('model'));
mkdirSync(at('rm'));
writeFileSync(at('rows.jsonl'), '{"prompt":"a","completion":"b"}\n');
test.after(() => rmSync(folder, { recursive: true }));

async function resolve<S>(...argv: string[]): Promise<S> {
  const call = readCall(commands, argv);
  return (await resolveSettings(call.command, call, false)).settings as S;
}

async function refused(
  argv: string[],
  message: RegExp,
  { terminal = false, hint }: { terminal?: boolean; hint?: RegExp } = {},
) {
  try {
    const call = readCall(commands, argv);
    await resolveSettings(call.command, call, terminal);
  } catch (error) {
    assert.instance(error, UsageError, String(error));
    assert.match((error as UsageError).message, message);
    if (hint) assert.match((error as UsageError).hint ?? '', hint);
    return;
  }
  assert.unreachable(`accepted ${argv.join(' ')}`);
}

function config(content: unknown): string {
  writeFileSync(at('config.json'), typeof content === 'string' ? content : JSON.stringify(content));
  return at('config.json');
}

const sft = ['train-sft', '--model', at('model'), '--data', at('rows.jsonl'), '--out', at('out')];
const ppo = ['ppo', '--policy', at('model'), '--reward', at('rm'), '--prompts', at('rows.jsonl'), '--out', at('out')];

test('defaults are those of the command', async () => {
  const s = await resolve<SftSettings>(...sft);
  assert.equal(
    [s.lr, s.epochs, s.batchSize, s.schedule, s.warmup, s.weightDecay, s.adamEps],
    [2e-5, 3, 32, 'cosine', 0, 0, 1e-8],
  );
  assert.equal([s.adamBeta1, s.adamBeta2, s.maxGradNorm, s.minLrRatio, s.seed, s.dropout], [0.9, 0.95, 1, 0.1, 0, 0]);
  assert.ok(s.shuffle && !s.packing && s.maxSteps === undefined);
  const p = await resolve<PpoSettings>(...ppo);
  assert.equal(
    [p.lr, p.valueLr, p.epochs, p.batchSize, p.minibatchSize, p.schedule, p.warmup],
    [3e-6, 9e-6, 1, 64, 32, 'constant', 10],
  );
  assert.equal(
    [p.beta, p.gamma, p.pretrainBatch, p.maxNewTokens, p.valueClip, p.ema, p.adamEps],
    [0.05, 0, 4, 128, 0.2, 0, 1e-5],
  );
  const b = await resolve<PretrainSettings>('pretrain', '--data', at('rows.jsonl'), '--out', at('out'));
  assert.equal([b.lr, b.epochs, b.batchSize, b.weightDecay, b.schedule], [1e-3, 1, 32, 0.1, 'cosine']);
});

test('defaults that depend on other options', async () => {
  const p = await resolve<PpoSettings>(...ppo, '--pretrain', at('rows.jsonl'));
  assert.equal([p.gamma, p.reference, p.value], [1, at('model'), at('rm')]);
  const c = await resolve<PpoSettings>(...ppo.slice(0, 3), '--reward', 'cmd:cat', ...ppo.slice(5));
  assert.equal([c.reward, c.value], ['cmd:cat', undefined]);
  const b = await resolve<PretrainSettings>('pretrain', '--data', at('rows.jsonl'), '--out', 'o', '--width', '64');
  assert.equal([b.hidden, b.kvHeads, b.tokenizerData], [172, 4, [at('rows.jsonl')]]);
});

test('the command line wins over the config, that over the preset, that over the default', async () => {
  const file = config({ lr: 0.5, 'batch-size': 7, 'no-shuffle': true, preset: 'instructgpt', data: at('rows.jsonl') });
  const s = await resolve<SftSettings>(
    'train-sft',
    '--model',
    at('model'),
    '--out',
    'o',
    '--config',
    file,
    '--lr',
    '0.25',
  );
  assert.equal([s.lr, s.batchSize, s.epochs, s.dropout, s.warmup, s.adamEps], [0.25, 7, 16, 0.2, 0, 1e-8]);
  assert.equal([s.shuffle, s.data], [false, [at('rows.jsonl')]]);
  assert.ok((await resolve<SftSettings>(...sft, '--config', file, '--shuffle')).shuffle);
});

test('files named on the command line take the place of the config\'s', async () => {
  writeFileSync(at('other.jsonl'), '');
  const file = config({ model: at('model'), data: at('rows.jsonl') });
  assert.equal((await resolve<SampleSettings>('sample', '--config', file, at('other.jsonl'))).data, [at('other.jsonl')]);
  assert.equal((await resolve<SampleSettings>('sample', '--config', file, '--data', at('rows.jsonl'), at('other.jsonl'))).data, [at('rows.jsonl'), at('other.jsonl')]);
  assert.equal((await resolve<SampleSettings>('sample', '--config', file)).data, [at('rows.jsonl')]);
});

test('config files are checked like the command line', async () => {
  await refused([...sft, '--config', config({ 'learning-rate': 1 })], /config\.json: unknown option "learning-rate"/);
  await refused([...sft, '--config', config({ batch_size: 1 })], /unknown option "batch_size"/, {
    hint: /"batch-size"/,
  });
  await refused([...sft, '--config', config({ config: 'x' })], /unknown option "config"/);
  await refused([...sft, '--config', config('{"__proto__": 1}')], /unknown option "__proto__"/);
  await refused([...sft, '--config', config({ lr: '1e-3' })], /"lr": "1e-3" is not a number/);
  await refused([...sft, '--config', config({ lr: null })], /"lr": null is not a number/);
  await refused([...sft, '--config', config('{"lr": 1e999}')], /"lr": Infinity is not a number/);
  await refused([...sft, '--config', config({ 'batch-size': 2.5 })], /"batch-size": 2.5 is not a whole number/);
  await refused([...sft, '--config', config({ lr: -1 })], /"lr": -1 is out of range/);
  await refused([...sft, '--config', config({ packing: 'yes' })], /"packing": "yes" is not true or false/);
  await refused([...sft, '--config', config({ data: [1] })], /"data": 1 is not a text/);
  await refused([...sft, '--config', config({ data: [] })], /"data": \[\] is not a text/);
  await refused([...sft, '--config', config('{"lr": 1')], /config\.json: not JSON/);
  await refused([...sft, '--config', config('{"lr": 1, "data": ["lr", "{"], "\\u006cr": 2}')], /config\.json: "lr" is there twice/);
  await refused([...sft, '--config', config({ shuffle: true, 'no-shuffle': true })], /"shuffle" and "no-shuffle" exclude each other/);
  await refused([...sft, '--config', config([1])], /not a JSON object/);
  await refused([...sft, '--config', at('none.json')], /--config: no such file/);
});

test('resolved settings can be given back as a config', async () => {
  const first = await resolve<PpoSettings>(
    ...ppo,
    '--preset',
    'tldr',
    '--lora-targets',
    'q_proj,v_proj',
    '--memory',
    '2G',
  );
  const again = await resolve<PpoSettings>('ppo', '--config', config(namedSettings(first)));
  assert.equal({ ...again, config: undefined, preset: undefined }, { ...first, config: undefined, preset: undefined });
  assert.equal([first.loraTargets, first.memory], [['q_proj', 'v_proj'], 2 ** 31]);
});

test('bad numbers and ranges name the option and the value', async () => {
  for (const text of ['abc', '1,5', '0x10', 'NaN', 'Infinity', '1e999', ' 1', '1_000', '--1']) {
    await refused([...sft, `--lr=${text}`], /--lr: ".*" is not a number/);
  }
  await refused([...sft, '--lr='], /--lr: the value is empty/);
  await refused([...sft, '--data', ''], /--data: the value is empty/);
  await refused(['sample', '--model', 'm', '--stop', ''], /--stop: the value is empty/);
  await refused([...sft, '--lr', '-0.1'], /--lr: -0.1 is out of range/);
  await refused([...sft, '--lr', '-1e-3'], /--lr: -1e-3 is out of range/);
  await refused([...sft, '--batch-size', '0'], /--batch-size: 0 is out of range, it must be at least 1/);
  await refused([...sft, '--batch-size', '2.5'], /--batch-size: "2.5" is not a whole number/);
  await refused([...sft, '--batch-size', '9007199254740993'], /is not a whole number/);
  await refused([...sft, '--adam-beta1', '1'], /--adam-beta1: 1 is out of range, it must be below 1/);
  await refused([...sft, '--seed', '4294967296'], /--seed: 4294967296 is out of range/);
  await refused([...sft, '--schedule', 'cosin'], /--schedule: "cosin" is not one of/, { hint: /cosine/ });
  await refused([...sft, '--memory', '3X'], /--memory: "3X" is not a size/);
  await refused([...sft, '--lora-targets', 'a,,b'], /--lora-targets: .* empty entry/);
  await refused([...sft, '--lr', '1', '--lr', '2'], /--lr is given twice: "1" and "2"/);
  assert.is((await resolve<SftSettings>(...sft, '--lr', '.5E-1')).lr, 0.05);
  assert.is((await resolve<SftSettings>(...sft, '--batch-size', '1e3')).batchSize, 1000);
});

test('options that do not go together', async () => {
  await refused([...sft.slice(0, -2), '--out', '-'], /--out: a name is needed, not - for standard output/);
  const pretrain = ['pretrain', '--data', at('rows.jsonl'), '--out', 'o'];
  for (const [name, value] of [['layers', '2'], ['context', '64'], ['arch', 'gpt2'], ['kv-heads', '1'], ['vocab-size', '300'], ['tokenizer', at('model')]]) {
    await refused([...pretrain, '--model', at('model'), `--${name}`, value!], new RegExp(`^--${name} cannot be given with --model`));
  }
  await refused([...pretrain, '--tokenizer', at('model'), '--tokenizer-data', at('rows.jsonl')], /^--tokenizer-data cannot be given with --tokenizer/);
  await refused([...pretrain, '--lora-rank', '4'], /^--lora-rank: an adapter needs a model/);
  const further = await resolve<PretrainSettings>(...pretrain, '--model', at('model'));
  assert.equal([further.layers, further.hidden, further.vocabSize, further.tokenizerData], [undefined, undefined, undefined, undefined]);
  await refused([...sft, '--resume', '--overwrite'], /--resume and --overwrite/);
  await refused([...sft, '--truncate', '--skip-long'], /--truncate and --skip-long/);
  await refused([...ppo, '--gamma', '2'], /--gamma: 2 needs --pretrain/);
  await refused([...ppo, '--batch-size', '8'], /--minibatch-size: 32 is more than --batch-size 8/);
  await refused(
    ['pretrain', '--data', at('rows.jsonl'), '--out', 'o', '--heads', '3'],
    /--heads: 3 does not divide --width 128/,
  );
  await refused(['eval', 'rm', '--model', at('rm'), '--baseline', at('rm')], /--baseline: eval rm has no use for it/);
  await refused(['label', at('rows.jsonl')], /label needs --out/);
});

test('missing input is standard input, or an error that names the option on a terminal', async () => {
  assert.equal((await resolve<SampleSettings>('sample', '--model', at('model'))).data, ['-']);
  await refused(['sample', '--model', at('model')], /sample needs --data/, { terminal: true });
  await refused(['sample'], /sample needs --model/);
  await refused(['ppo', ...ppo.slice(1, 5), '--out', 'o'], /ppo needs --prompts/, { terminal: true });
  await refused([...ppo, '--prompts', '-', '--pretrain', '-'], /--prompts and --pretrain both read standard input/);
  await refused(['sample', '-', '--data', '-', '--model', at('model')], /both read standard input/);
  const sft = ['train-sft', '--model', at('model'), '--data', at('rows.jsonl'), '--out', 'o'];
  await refused([...sft, '--eval-data', '-', '--select-by-reward', at('rm')], /--eval-data -: with --select-by-reward its rows are read twice/);
  await refused([...sft, '--pretrain', at('rows.jsonl'), '--pretrain-weight', '0'], /--pretrain-weight: 0 is out of range/);
});

test('files and folders must be there', async () => {
  await refused(['sample', '--model', at('none')], /--model: no such folder/);
  await refused(['sample', '--model', at('rows.jsonl')], /--model: not a folder/);
  await refused(['sample', '--model', at('rows.jsonl/x')], /--model: no such folder/);
  await refused(['sample', '--model', at('model'), '--data', at('none')], /--data: no such file/);
  await refused(['sample', '--model', at('model'), '--data', at('rm')], /--data: a folder, not a file/);
  await refused(['sample', '--model', at('model'), at('none')], /no such file/);
  await refused(['report', at('none')], /no such file/);
  await refused([...ppo.slice(0, 3), '--reward', 'cmd: ', ...ppo.slice(5)], /--reward: no program/);
});

test('words that a command has no use for', async () => {
  await refused(['train-sft', '--data', 'a', 'b'], /unexpected argument "b"/, { hint: /--data FILE --data FILE/ });
  await refused(['eval'], /eval: KIND is missing/);
  await refused(['eval', 'rn'], /"rn" is not one of/, { hint: /rm/ });
  await refused(['eval', 'rm', 'x', '--model', at('rm')], /unexpected argument "x"/);
});

test('words may name the input of streaming commands', async () => {
  const s = await resolve<SampleSettings>(
    'sample',
    '--model',
    at('model'),
    at('rows.jsonl'),
    '--data',
    at('rows.jsonl'),
  );
  assert.equal(s.data, [at('rows.jsonl'), at('rows.jsonl')]);
});

test('shards count from 0', async () => {
  const s = await resolve<SampleSettings>('sample', '--model', at('model'), '--shard', '2/3');
  assert.equal(s.shard, { index: 2, count: 3 });
  for (const text of ['3/3', '1', '-1/3', '1/0', 'a/b', '1/2/3']) {
    await refused(['sample', '--model', at('model'), '--shard', text], /--shard: ".*" is not I\/N/);
  }
});

test('presets hold only options of their command, within their ranges', async () => {
  let presets = 0;
  for (const command of commands) {
    for (const [name, values] of Object.entries(command.presets ?? {})) {
      const file = config(values);
      const words = command.name === 'ppo' ? [...ppo, '--pretrain', at('rows.jsonl')] : [command.name, ...sft.slice(1)];
      const viaConfig = namedSettings(await resolve<object>(...words, '--config', file));
      const viaPreset = namedSettings(await resolve<object>(...words, '--preset', name));
      assert.equal(viaPreset, viaConfig, `${command.name} ${name}`);
      for (const [key, value] of Object.entries(values)) assert.equal(viaPreset[key], value, `${name}: ${key}`);
      presets++;
    }
  }
  assert.is(presets, 8);
  await refused([...ppo, '--preset', 'nope'], /ppo has no preset "nope"/, { hint: /instructgpt/ });
  await refused([...ppo, '--preset', 'toString'], /ppo has no preset/);
});

test('a dry run of a preset needs no files', async () => {
  const call = readCall(commands, ['ppo', '--preset', 'instructgpt', '--dry-run']);
  const { settings, missing } = await resolveSettings(call.command, call, false);
  assert.equal([settings.gamma, settings.beta, settings.ema, settings.episodes], [27.8, 0.02, 0.992, 256000]);
  assert.equal(missing, ['policy', 'reward', 'out']);
});

test.run();
