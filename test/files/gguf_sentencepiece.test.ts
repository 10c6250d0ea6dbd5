// SentencePiece tokenizers out of GGUF files, against SentencePiece's own encodings and llama.cpp's algorithm.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { UsageError } from '../../src/errors.ts';
import { openGguf } from '../../src/files/gguf.ts';
import { exportGguf } from '../../src/files/gguf_export.ts';
import { importGguf } from '../../src/files/gguf_import.ts';
import { tokenizerFromGguf } from '../../src/files/gguf_tokenizer.ts';
import { writeGguf, type GgufEntry } from '../../src/files/gguf_write.ts';
import { openModel } from '../../src/files/model_folder.ts';
import { Tokenizer } from '../../src/text/tokenizer.ts';
import { MODELS, temporaryFolder } from './temporary.ts';

const dir = temporaryFolder();
const fixtures = join(process.env['RLHF_ROOT']!, 'test/fixtures/gguf');

/** The tokenizer of a GGUF file; its other parts do not matter here. */
function tokenizerOf(path: string): Tokenizer {
  const file = openGguf(path);
  try {
    const files = tokenizerFromGguf(file);
    return Tokenizer.fromJson(JSON.parse(files['tokenizer.json']!), JSON.parse(files['tokenizer_config.json']!));
  } finally {
    file.close();
  }
}

test('texts become the ids that SentencePiece gives, and texts again', () => {
  const tokenizer = tokenizerOf(join(fixtures, 'sentencepiece.gguf'));
  const { encode } = JSON.parse(readFileSync(join(fixtures, 'sentencepiece.json'), 'utf8')) as
    { encode: { text: string; ids: number[]; decoded: string }[] };
  assert.ok(encode.length >= 15);
  for (const { text, ids, decoded } of encode) {
    assert.equal(tokenizer.encode(text), ids, JSON.stringify(text));
    assert.is(tokenizer.decode(ids), decoded, JSON.stringify(text));
  }
  assert.equal([tokenizer.prefixIds, tokenizer.bosId, tokenizer.eosId], [[1], 1, 2]);
  const turn = tokenizer.idOf('<turn>')!;
  assert.ok(tokenizer.encode('one <turn> two').includes(turn), 'a user-defined symbol is one token');
  assert.is(tokenizer.decode([turn], { skipSpecialTokens: true }), '<turn>', 'and is shown');
});

test('stories260K exported and imported again is the same model with the same tokenizer', async () => {
  const from = join(MODELS, 'stories260K');
  const [path, back] = [join(dir, 'stories.gguf'), join(dir, 'stories')];
  const model = openModel(from);
  await exportGguf(model, from, path, 'f32');
  await importGguf(path, back);
  const again = openModel(back);
  for (const { name } of model.plan) assert.equal(again.read(name), model.read(name), name);
  const [a, b] = await Promise.all([Tokenizer.load(from), Tokenizer.load(back)]);
  for (const text of ['Once upon a time, in a big  forest', ' naïve 日本語 🙂\n', 'aaaaaaa tttthhhheee', '']) {
    assert.equal(b.encodePrompt(text), a.encodePrompt(text), text);
    assert.is(b.decode(b.encode(text)), a.decode(a.encode(text)), text);
  }
  assert.equal([b.bosId, b.eosId, b.addsBos, [...b.eosIds]], [a.bosId, a.eosId, a.addsBos, [...a.eosIds]]);
  for (const each of [model, again]) each.close();
});

/** All bytes and a few pieces, as llama.cpp numbers their types; `change` replaces entries. */
function entries(change: GgufEntry[] = [], without: string[] = []): GgufEntry[] {
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
  const tokens = ['<unk>', '<s>', '</s>', ...bytes, '▁', 'a', 'b', 'ab', '▁a', '𝔸', '𝔸b'];
  const scores = tokens.map((token) => ({ ab: -2, '▁a': -1, '𝔸b': -3 })[token] ?? 0);
  const all: GgufEntry[] = [
    { key: 'general.architecture', type: 'string', value: 'llama' },
    { key: 'llama.context_length', type: 'u32', value: 64 },
    { key: 'tokenizer.ggml.model', type: 'string', value: 'llama' },
    { key: 'tokenizer.ggml.tokens', type: 'string[]', value: tokens },
    { key: 'tokenizer.ggml.token_type', type: 'i32[]', value: tokens.map((_, id) => (id === 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : 1)) },
    { key: 'tokenizer.ggml.scores', type: 'f32[]', value: scores },
  ];
  return [...all.filter(({ key }) => !without.includes(key) && !change.some((each) => each.key === key)), ...change];
}

async function written(...args: Parameters<typeof entries>): Promise<string> {
  const path = join(dir, 'small.gguf');
  await writeGguf(path, entries(...args), [{ name: 'x', shape: [1], type: 'F32', data: new Float32Array(1) }]);
  return path;
}

test('the higher score is joined first; roles, BOS and the space before a text have llama.cpp\'s defaults', async () => {
  const tokenizer = tokenizerOf(await written());
  const texts = (text: string) => tokenizer.encode(text).map((id) => tokenizer.tokenOf(id));
  assert.equal(texts('ab'), ['▁a', 'b'], '▁a has −1, ab −2');
  assert.equal(texts('bab'), ['▁', 'b', 'ab']);
  assert.equal(texts('b𝔸b'), ['▁', 'b', '𝔸b'], 'characters of two UTF-16 units');
  assert.equal(texts('é'), ['▁', '<0xC3>', '<0xA9>']);
  assert.equal([tokenizer.bosId, tokenizer.eosId, tokenizer.prefixIds], [1, 2, [1]]);
  assert.is(tokenizer.decode(tokenizer.encode(' ab')), ' ab');
});

test('add_space_prefix and add_bos_token are followed', async () => {
  const off = ['add_space_prefix', 'add_bos_token'].map((name): GgufEntry => ({ key: `tokenizer.ggml.${name}`, type: 'bool', value: false }));
  const tokenizer = tokenizerOf(await written(off));
  assert.equal(tokenizer.encodePrompt('ab a').map((id) => tokenizer.tokenOf(id)), ['ab', '▁a']);
  assert.is(tokenizer.decode(tokenizer.encode(' ab')), ' ab');
});

test('what is missing or malformed is named', async () => {
  const refused = async (pattern: RegExp, ...args: Parameters<typeof entries>): Promise<void> => {
    const path = await written(...args);
    assert.throws(() => tokenizerOf(path), (error: unknown) => error instanceof UsageError && pattern.test(error.message));
  };
  const tokens = (entries().find(({ key }) => key === 'tokenizer.ggml.tokens') as { key: string; type: 'string[]'; value: readonly string[] }).value;
  await refused(/small\.gguf: tokenizer\.ggml\.scores: must be a list/, [], ['tokenizer.ggml.scores']);
  await refused(/tokenizer\.ggml\.token_type: must be a list/, [], ['tokenizer.ggml.token_type']);
  await refused(/tokenizer\.ggml\.scores: has 3 entries for 266 tokens/, [{ key: 'tokenizer.ggml.scores', type: 'f32[]', value: [0, 0, 0] }]);
  await refused(/tokenizer\.ggml\.scores: entry 1 is NaN/, [{ key: 'tokenizer.ggml.scores', type: 'f32[]', value: tokens.map((_, i) => (i === 1 ? NaN : 0)) }]);
  const renamed = tokens.map((token) => (token === '<0x0A>' ? 'newline' : token));
  await refused(/tokenizer\.ggml\.tokens: the token <0x0A> is missing/, [{ key: 'tokenizer.ggml.tokens', type: 'string[]', value: renamed }]);
});

test.run();
