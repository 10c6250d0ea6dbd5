// Conversations, cut-off answers and several ends of generation through whole commands.
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { SHAPES, writeRandomModel } from '../files/random_model.ts';
import { buildWholeProgram, jsonLines, type WholeProgram } from '../properties/program.ts';

let rlhf: WholeProgram;
/** Not the tokenizer's own end first: 513 is `<|im_end|>`. */
const GENERATION = `${JSON.stringify({ eos_token_id: [40, 513], temperature: 0.6 }, null, 1)}\n`;
const user = (content: string) => ({ role: 'user', content });
const assistant = (content: string) => ({ role: 'assistant', content });
const json = (...path: string[]) => JSON.parse(readFileSync(rlhf.path(...path), 'utf8')) as Record<string, unknown>;
/** Changes fields of a JSON file. */
const change = (model: string, file: string, fields: object) =>
  writeFileSync(rlhf.path(model, file), JSON.stringify({ ...json(model, file), ...fields }));

test.before(async () => {
  rlhf = await buildWholeProgram();
  await writeRandomModel(rlhf.path('base'), { ...SHAPES.linear, eos_token_id: [40, 513], pad_token_id: 513 });
  writeFileSync(rlhf.path('base', 'generation_config.json'), GENERATION);
  change('base', 'config.json', { eos_token_id: [40, 513] });
});
test.after(() => rlhf.remove());

test('where generation stops is carried to trained models, adapters and merged ones', async () => {
  const data = rlhf.rows('demonstrations.jsonl', [{ messages: [user('Hi'), assistant('Hello')] }, { prompt: 'a', completion: 'b' }]);
  const train = (...more: string[]) => rlhf.succeed(['train-sft', '--data', data, '--max-steps', '1', '--quiet', ...more]);
  const generation = (model: string) => readFileSync(rlhf.path(model, 'generation_config.json'), 'utf8');
  await train('--model', 'base', '--out', 'sft');
  assert.is(generation('sft'), GENERATION);
  await train('--model', 'base', '--lora-rank', '2', '--out', 'adapter');
  assert.is(generation('adapter'), GENERATION);
  await rlhf.succeed(['export', '--merge', 'adapter', '--out', 'merged']);
  assert.is(generation('merged'), GENERATION);
  // An adapter without the file, as PEFT writes it, has its base's.
  rmSync(rlhf.path('adapter', 'generation_config.json'));
  await rlhf.succeed(['export', '--merge', 'adapter', '--out', 'merged-2']);
  assert.is(generation('merged-2'), GENERATION);
  await train('--model', 'adapter', '--out', 'further');
  assert.is(generation('further'), GENERATION);
  // Where config.json alone lists the ends, the new model has all of them too.
  rmSync(rlhf.path('base', 'generation_config.json'));
  await rlhf.succeed(['export', '--merge', 'adapter', '--out', 'merged-3']);
  assert.equal(json('merged-3', 'generation_config.json').eos_token_id, [40, 513]);
  await train('--model', 'base', '--out', 'sft-2');
  assert.equal(json('sft-2', 'generation_config.json').eos_token_id, [40, 513]);
  writeFileSync(rlhf.path('base', 'generation_config.json'), GENERATION);
});

test('the mean reward of demonstrations is 0 as score reads them, conversations too', async () => {
  const rows = [
    { messages: [user('Hi'), assistant('Hello there')] },
    { messages: [user('One'), assistant('1'), user('Two'), assistant('2 and more')] },
    { prompt: [user('Three')], completion: [assistant('3')] },
    { prompt: 'plain', completion: ' text' },
  ];
  const rankings = rlhf.rows('rankings.jsonl', [
    { prompt: [user('Hi')], completions: ['Hello', 'No', 'Go away'], ranks: [1, 2, 3] },
    { prompt: 'plain', completions: [' words', ' none'], ranks: [1, 2] },
  ]);
  await rlhf.succeed(['train-rm', '--model', 'base', '--data', rankings, '--demonstrations', rlhf.rows('shown.jsonl', rows), '--lr', '0.01', '--epochs', '3',
    '--out', 'rm', '--quiet']);
  const answers = [
    { prompt: [user('Hi')], completion: 'Hello there' },
    { prompt: [user('One'), assistant('1'), user('Two')], completion: '2 and more' },
    { prompt: [user('Three')], completion: '3' },
    { prompt: 'plain', completion: ' text' },
  ];
  const rewards = jsonLines(await rlhf.succeed(['score', '--model', 'rm', '--quiet', rlhf.rows('answers.jsonl', answers)])).map((row) => row.reward as number);
  assert.ok(Math.max(...rewards) - Math.min(...rewards) > 1e-3, `they differ: ${rewards.join()}`);
  assert.ok(Math.abs(rewards.reduce((a, b) => a + b) / rewards.length) < 1e-5, rewards.join());
  // The tokenizer ends rows with the second of config.json's ends: transformers must not skip that as padding.
  assert.not.equal(json('rm', 'config.json').pad_token_id, 513);
});

test('a ranked answer that was cut off is read at its last token, as score reads it', async () => {
  const [better, worse] = [' a very long answer', ' an end'];
  const row = { prompt: 'Tell', completions: [better, worse], finish_reason: ['length', 'stop'] };
  const [{ rewards }] = jsonLines(await rlhf.succeed(['score', '--model', 'rm', '--quiet', rlhf.rows('cut.jsonl', [row])])) as { rewards: number[] }[];
  const evaluate = async (ranking: object) =>
    (jsonLines(await rlhf.succeed(['eval', 'rm', '--model', 'rm', '--data', rlhf.rows('ranked.jsonl', [ranking]), '--quiet'])) as { loss: number }[])[0].loss;
  const lossOf = (difference: number) => Math.log1p(Math.exp(-difference));
  const found = await evaluate({ ...row, ranks: [1, 2] });
  assert.ok(Math.abs(found - lossOf(rewards[0] - rewards[1])) < 1e-5, `${found} for ${rewards.join()}`);
  assert.ok(Math.abs(found - await evaluate({ prompt: 'Tell', completions: row.completions, ranks: [1, 2] })) > 1e-4, 'the EOS matters');
});

test('data in which there is nothing to learn is refused before anything is trained', async () => {
  // Without BOS an empty document is its EOS alone.
  await writeRandomModel(rlhf.path('plain'), SHAPES.linear);
  change('plain', 'tokenizer_config.json', { bos_token: null });
  const empty = rlhf.rows('empty.jsonl', [{ text: '' }, { text: '' }]);
  const refused = async (args: string[], reason: RegExp) => {
    const { code, stdout, stderr } = await rlhf.run([...args, '--quiet']);
    assert.is(code, 2, stderr);
    assert.match(stderr, reason);
    assert.is(stdout, '');
  };
  await refused(['pretrain', '--model', 'plain', '--data', empty, '--out', 'none'], /empty\.jsonl: every document is empty, so there is nothing to learn$/m);
  await refused(['eval', 'perplexity', '--model', 'plain', '--data', empty], /empty\.jsonl: no token follows another/);
  await refused(['train-sft', '--model', 'plain', '--data', 'demonstrations.jsonl', '--pretrain', empty, '--out', 'none'], /every document is empty/);
  const cut = rlhf.rows('cut-empty.jsonl', [{ prompt: 'a', completion: 'b' }, { prompt: 'a', completion: '', finish_reason: 'length' }]);
  await refused(['train-sft', '--model', 'plain', '--data', cut, '--out', 'none'], /cut-empty\.jsonl:2: there is no token to learn/);
});

test.run();
