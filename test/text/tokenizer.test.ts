import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { UsageError } from '../../src/errors.ts';
import { Tokenizer } from '../../src/text/tokenizer.ts';

const fixtures = join(process.env.RLHF_ROOT!, 'test/fixtures/text');
const read = (name: string) => JSON.parse(readFileSync(join(fixtures, name), 'utf8'));
const folder = mkdtempSync(join(tmpdir(), 'rlhf-tokenizer-'));
test.after(() => rmSync(folder, { recursive: true }));
const stories = await Tokenizer.load(join(fixtures, 'stories260K'));
const gpt2 = await Tokenizer.load(join(fixtures, 'gpt2-pruned'));
interface Case {
  text: string;
  ids: number[];
  decoded?: string;
}

test('stories260K: ids and texts of 223 strings', () => {
  assert.is(stories.vocabSize, 512);
  assert.is(stories.addsBos, true);
  assert.equal([stories.bosId, stories.eosId, stories.padId], [1, 2, undefined]);
  const cases = read('stories260K_encode.json').cases as Case[];
  assert.is(cases.length, 223);
  for (const { text, ids, decoded } of cases) {
    assert.equal(stories.encodePrompt(text), ids, JSON.stringify(text));
    assert.equal(stories.encode(text), ids.slice(1), JSON.stringify(text));
    assert.is(stories.decode(ids, { skipSpecialTokens: true }), decoded);
  }
});

test('GPT-2: ids and texts of 223 strings, white space of every kind among them', () => {
  assert.is(gpt2.vocabSize, 50257);
  assert.is(gpt2.addsBos, false);
  assert.equal([gpt2.bosId, gpt2.eosId, gpt2.padId], [50256, 50256, undefined]);
  const cases = read('gpt2_encode.json').cases as Case[];
  assert.is(cases.length, 223);
  for (const { text, ids } of cases) {
    assert.equal(gpt2.encode(text), ids, JSON.stringify(text));
    assert.is(gpt2.decode(ids), text);
  }
});

test('a stream gives the decoded text in whole characters', () => {
  for (const [tokenizer, file] of [[gpt2, 'gpt2_encode.json'], [stories, 'stories260K_encode.json']] as const) {
    for (const { text, ids } of read(file).cases as Case[]) {
      const stream = tokenizer.stream();
      const pieces = ids.map((id) => stream.push(id));
      if (!text.includes('\ufffd')) assert.ok(pieces.every((piece) => !piece.includes('\ufffd')), JSON.stringify(text));
      const whole = pieces.join('') + stream.end();
      assert.is(whole, tokenizer.decode(ids, { skipSpecialTokens: true }), JSON.stringify(text));
    }
  }
  const stream = gpt2.stream();
  const smile = gpt2.encode('🙂');
  assert.ok(smile.length > 1);
  assert.equal(smile.map((id) => stream.push(id)).join(''), '🙂');
  assert.is(stream.push(smile[0]), '');
  assert.is(stream.end(), '\ufffd');
});

test('the stops are those of generation_config.json and EOS', async () => {
  const json = read('stories260K/tokenizer.json');
  const config = read('stories260K/tokenizer_config.json');
  const stops = (generation: object) => [...Tokenizer.fromJson(json, config, generation).eosIds].sort((a, b) => a - b);
  assert.equal(stops({}), [2]);
  assert.equal(stops({ eos_token_id: 7 }), [2, 7]);
  assert.equal(stops({ eos_token_id: [2, 9, 11] }), [2, 9, 11]);
  assert.throws(() => stops({ eos_token_id: '2' }), /eos_token_id "2"/);
});

test('BOS before a prompt: the class and add_bos_token, else the post-processor', () => {
  const json = read('stories260K/tokenizer.json');
  const roles = { bos_token: '<s>', eos_token: '</s>' };
  const prefix = (config: object, post: unknown = json.post_processor) =>
    Tokenizer.fromJson({ ...json, post_processor: post }, { ...roles, ...config }).prefixIds;
  assert.equal(prefix({}), [1]);
  assert.equal(prefix({}, null), []);
  assert.equal(prefix({ add_bos_token: true }, null), [1]);
  // transformers 4.57 and 5.24 alike.
  for (const tokenizer_class of ['PreTrainedTokenizerFast', 'GPT2Tokenizer', 'Qwen2TokenizerFast']) {
    assert.equal(prefix({ tokenizer_class, add_bos_token: true }, null), []);
    assert.equal(prefix({ tokenizer_class, add_bos_token: false }), [1]);
  }
  assert.equal(prefix({ tokenizer_class: 'LlamaTokenizer' }, null), [1]);
  assert.equal(prefix({ tokenizer_class: 'LlamaTokenizerFast', add_bos_token: false }), []);
  assert.equal(prefix({}, { type: 'Sequence', processors: [{ type: 'ByteLevel' }, json.post_processor] }), [1]);
  // A template that only ends with EOS puts nothing before a prompt.
  const single = [{ Sequence: { id: 'A' } }, { SpecialToken: { id: '</s>' } }];
  const special_tokens = { '</s>': { id: '</s>', ids: [2] } };
  assert.equal(prefix({}, { type: 'TemplateProcessing', single, special_tokens }), []);
});

test('what is saved is what was loaded', async () => {
  const chatml = await Tokenizer.load(join(fixtures, 'chat/chatml'));
  await chatml.save(folder);
  for (const name of ['tokenizer.json', 'tokenizer_config.json']) {
    assert.is(readFileSync(join(folder, name), 'utf8'), readFileSync(join(fixtures, 'chat/chatml', name), 'utf8'));
  }
  const again = await Tokenizer.load(folder);
  const messages = [{ role: 'user', content: 'Hi' }];
  assert.equal(again.chatIds(messages), chatml.chatIds(messages));
  chatml.setChatTemplate('{{ messages[0].content }}!');
  await chatml.save(folder);
  assert.is((await Tokenizer.load(folder)).renderChat(messages), 'Hi!');
});

const hostile: [string, (json: any) => unknown, RegExp][] = [
  ['not JSON', () => '{"model":', /not JSON/],
  ['a list', () => [], /not a JSON object/],
  ['no model', (j) => ({ ...j, model: undefined }), /"model" is missing/],
  ['another model', (j) => ({ ...j, model: { type: 'WordPiece', vocab: {} } }), /"WordPiece" is not supported/],
  ['vocab a list', (j) => ({ ...j, model: { ...j.model, vocab: [] } }), /model\.vocab is missing or not/],
  ['vocab empty', (j) => ({ ...j, model: { ...j.model, vocab: {}, unk_token: null } }), /model\.vocab is empty/],
  ['id a text', (j) => setId(j, '7'), /id "7" is not a whole number/],
  ['id a fraction', (j) => setId(j, 1.5), /id 1.5 is not a whole number/],
  ['id negative', (j) => setId(j, -1), /id -1 is out of range/],
  ['id absurd', (j) => setId(j, 2 ** 40), /out of range/],
  ['id twice', (j) => setId(j, 300), /have the same id 300/],
  ['merges no list', (j) => ({ ...j, model: { ...j.model, merges: 'x' } }), /model\.merges is missing or not a list/],
  ['merge unknown', (j) => ({ ...j, model: { ...j.model, merges: ['q zz'] } }), /model\.merges\[0\]: "zz" is not in/],
  ['merge of one', (j) => ({ ...j, model: { ...j.model, merges: [['q']] } }), /is not a pair of tokens/],
  ['added no list', (j) => ({ ...j, added_tokens: {} }), /added_tokens is not a list/],
  ['added id', (j) => ({ ...j, added_tokens: [{ id: 1e9, content: '<x>' }] }), /out of range/],
  ['added clash', (j) => ({ ...j, added_tokens: [{ id: 300, content: '<x>' }] }), /have the same id 300/],
  ['added empty', (j) => ({ ...j, added_tokens: [{ id: 600, content: '' }] }), /added_tokens\[0\]\.content/],
  ['pre-tokenizer', (j) => ({ ...j, pre_tokenizer: { type: 'Nope' } }), /pre_tokenizer type "Nope"/],
  ['normalizer', (j) => ({ ...j, normalizer: [] }), /normalizer is not an object/],
  ['decoder', (j) => ({ ...j, decoder: { type: 'WordPiece' } }), /decoder type "WordPiece"/],
  ['nesting', (j) => ({ ...j, pre_tokenizer: nested(500) }), /nested too deeply/],
  ['regex', (j) => ({ ...j, pre_tokenizer: splitBy('(') }), /tokenizer\.json: /],
  ['post-processor', (j) => ({ ...j, post_processor: { type: 'Nope' } }), /post_processor type "Nope"/],
];
const splitBy = (Regex: string) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false });
const setId = ({ model, ...rest }: any, id: unknown) => ({
  ...rest,
  model: { ...model, vocab: { ...model.vocab, zz: id } },
});

function nested(depth: number): object {
  let inner: object = { type: 'ByteLevel' };
  for (let i = 0; i < depth; i++) inner = { type: 'Sequence', pretokenizers: [inner] };
  return inner;
}

test('a broken tokenizer.json is one line that names the file, at once', async () => {
  const path = join(folder, 'tokenizer.json');
  writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify(read('stories260K/tokenizer_config.json')));
  rmSync(join(folder, 'chat_template.jinja'), { force: true });
  for (const [name, change, message] of hostile) {
    const json = change(read('stories260K/tokenizer.json'));
    writeFileSync(path, typeof json === 'string' ? json : JSON.stringify(json));
    const started = performance.now();
    const error = await Tokenizer.load(folder).then(() => undefined, (e: Error) => e);
    assert.instance(error, UsageError, name);
    assert.match(error!.message, message, name);
    assert.ok(error!.message.startsWith(path) && !error!.message.includes('\n'), error!.message);
    assert.ok(performance.now() - started < 1000, name);
  }
});

test('other broken files and roles', async () => {
  const json = JSON.stringify(read('stories260K/tokenizer.json'));
  const fails = async (files: Record<string, string>, message: RegExp) => {
    for (const name of ['tokenizer.json', 'tokenizer_config.json', 'generation_config.json']) {
      rmSync(join(folder, name), { force: true });
    }
    for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
    const error = await Tokenizer.load(folder).then(() => undefined, (e: Error) => e);
    assert.instance(error, UsageError);
    assert.match(error!.message, message);
  };
  await fails({}, /no tokenizer\.json/);
  await fails({ 'tokenizer.json': json }, /tokenizer_config\.json: the tokenizer has no end-of-sequence token/);
  await fails({ 'tokenizer.json': json, 'tokenizer_config.json': '[]' }, /tokenizer_config\.json: not a JSON object/);
  await fails({ 'tokenizer.json': json, 'tokenizer_config.json': '{"eos_token":"<eot>"}' }, /"<eot>" is not in/);
  await fails({ 'tokenizer.json': json, 'tokenizer_config.json': '{"eos_token":3}' }, /eos_token 3 is not a text/);
  const config = '{"eos_token":"</s>"}';
  const stops = (value: string) => ({
    'tokenizer.json': json,
    'tokenizer_config.json': config,
    'generation_config.json': `{"eos_token_id":${value}}`,
  });
  await fails(stops('-2'), /generation_config\.json: eos_token_id -2/);
  await fails(stops('[2,null]'), /generation_config\.json: eos_token_id null/);
  writeFileSync(join(folder, 'tokenizer.json'), Buffer.from([0x7b, 0xff, 0x7d]));
  const error = await Tokenizer.load(folder).then(() => undefined, (e: Error) => e);
  assert.match(error!.message, /tokenizer\.json: not UTF-8/);
});

/** Mutated files either load and then encode and decode, or fail with a UsageError. RLHF_FUZZ_CASES sets the number. */
test('fuzz: mutated tokenizer.json', () => {
  const source = JSON.stringify(read('stories260K/tokenizer.json'));
  const config = read('stories260K/tokenizer_config.json');
  const random = lcg(7);
  const snippets = ['null', '-1', '1e99', '"', '[]', '{}', '{"type":"Sequence"}', '"\\ud800"', ',', 'true', '0.5'];
  let loaded = 0;
  for (let i = 0; i < Number(process.env.RLHF_FUZZ_CASES ?? 300); i++) {
    // Most of the file is vocabulary: aim half of the mutations at the first and last parts.
    const ends = random(2) === 0 ? random(1800) : random(source.length);
    const at = random(2) === 0 ? ends : Math.max(0, source.length - 1 - ends);
    const text = source.slice(0, at) + snippets[random(snippets.length)] + source.slice(at + random(12));
    let json: object;
    try {
      json = JSON.parse(text) as object;
    } catch {
      json = mutateValue(JSON.parse(source) as object, random);
    }
    try {
      const tokenizer = Tokenizer.fromJson(json, config);
      const ids = tokenizer.encodePrompt('Once upon a time');
      assert.ok(ids.every((id) => Number.isInteger(id) && id < tokenizer.vocabSize));
      tokenizer.decode(ids);
      loaded++;
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      assert.not.match(error.message, /\n/);
    }
  }
  assert.ok(loaded > 0);
});

/** Replaces one value somewhere in the tree. */
function mutateValue(json: any, random: (n: number) => number): object {
  const values = [null, -1, 1e99, 'x', [], {}, true, 0.5, '', { type: 'Sequence' }];
  let node = json;
  for (;;) {
    const keys = Object.keys(node);
    if (keys.length === 0) return json;
    const key = keys[random(keys.length)];
    if (typeof node[key] !== 'object' || node[key] === null || random(4) === 0) {
      node[key] = values[random(values.length)];
      return json;
    }
    node = node[key];
  }
}

function lcg(seed: number): (n: number) => number {
  let state = seed;
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
}

test.run();
