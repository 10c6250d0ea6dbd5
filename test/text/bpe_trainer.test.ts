import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { byteLevelTokenizerConfig, SPECIAL_TOKENS, trainByteLevelBpe } from '../../src/text/bpe_trainer.ts';
import { Tokenizer } from '../../src/text/tokenizer.ts';

const folder = join(process.env.RLHF_ROOT!, 'test/fixtures/text/bpe-trained');
const read = (name: string) => JSON.parse(readFileSync(join(folder, name), 'utf8'));
const texts = gunzipSync(readFileSync(join(folder, 'training-text.jsonl.gz')))
  .toString()
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line).text as string);

test('training gives the tokenizer.json of the Hugging Face trainer, merge by merge', () => {
  const options = { vocabSize: 512, specialTokens: ['<|endoftext|>', '<|pad|>'] };
  const trained = trainByteLevelBpe(texts, options);
  assert.equal(JSON.parse(JSON.stringify(trained)), read('tokenizer.json'));
});

test('the trained tokenizer encodes as the Hugging Face library does', () => {
  const tokenizer = Tokenizer.fromJson(read('tokenizer.json'), { eos_token: '<|endoftext|>', pad_token: '<|pad|>' });
  for (const { text, ids } of read('encode.json').cases as { text: string; ids: number[] }[]) {
    assert.equal(tokenizer.encode(text), ids, JSON.stringify(text));
    assert.is(tokenizer.decode(ids), text);
  }
});

/** The same algorithm without any incremental book-keeping: counts everything again for each merge. */
function naiveMerges(words: [string, number][], count: number): string[] {
  const split = words.map(([word, times]) => ({ symbols: [...word], times }));
  const order = [...new Set(words.flatMap(([word]) => [...word]))].sort();
  const merges: string[] = [];
  for (let step = 0; step < count; step++) {
    const counts = new Map<string, number>();
    for (const { symbols, times } of split) {
      for (let i = 0; i + 1 < symbols.length; i++) {
        const pair = `${symbols[i]} ${symbols[i + 1]}`;
        counts.set(pair, (counts.get(pair) ?? 0) + times);
      }
    }
    const rank = (pair: string) => pair.split(' ').map((s) => order.indexOf(s));
    const best = [...counts].sort(([p, a], [q, b]) => b - a || rank(p)[0] - rank(q)[0] || rank(p)[1] - rank(q)[1])[0];
    if (!best) break;
    merges.push(best[0]);
    const [left, right] = best[0].split(' ');
    if (!order.includes(left + right)) order.push(left + right);
    for (const { symbols } of split) {
      for (let i = 0; i + 1 < symbols.length; i++) {
        if (symbols[i] === left && symbols[i + 1] === right) symbols.splice(i, 2, left + right);
      }
    }
  }
  return merges;
}

test('ties and counts agree with a recount after each merge', () => {
  const words: [string, number][] = [['low', 5], ['lower', 2], ['newest', 6], ['widest', 3], ['banana', 4]];
  const texts = words.flatMap(([word, times]) => Array<string>(times).fill(word));
  const json = trainByteLevelBpe(texts, { vocabSize: 256 + 14, specialTokens: [] });
  const merges = (json.model as { merges: [string, string][] }).merges.map((pair) => pair.join(' '));
  assert.is(merges.length, 14);
  assert.equal(merges, naiveMerges(words, 14));
});

test('minFrequency and a lack of pairs end the training early; a small vocabSize leaves the bytes', () => {
  const size = (text: string, vocabSize: number, minFrequency = 0) => {
    const json = trainByteLevelBpe([text], { vocabSize, specialTokens: ['<|eos|>'], minFrequency });
    return Object.keys((json.model as { vocab: object }).vocab).length;
  };
  assert.is(size('abab abab', 10), 257);
  assert.is(size('', 300), 257);
  assert.is(size('ab', 300), 258);
  assert.is(size('ab', 300, 2), 257);
  assert.is(size('ab ab', 300, 2), 258);
});

test('a new vocabulary has its own pad token, adds no BOS and gives every text back', () => {
  const json = trainByteLevelBpe(texts.slice(0, 50), { vocabSize: 400, specialTokens: Object.values(SPECIAL_TOKENS) });
  const tokenizer = Tokenizer.fromJson(json, byteLevelTokenizerConfig(128));
  assert.equal([tokenizer.padId, tokenizer.bosId, tokenizer.eosId], [0, 1, 2]);
  assert.is(tokenizer.vocabSize, 400);
  assert.is(tokenizer.addsBos, false);
  for (const text of ['', 'The Mill', '  tabs\t\u0085\ufeff', 'naïve 🙂 日本語', '\u0000\u0007']) {
    assert.is(tokenizer.decode(tokenizer.encodePrompt(text)), text);
  }
});

test('a megabyte of text and 1,024 entries take seconds', () => {
  const started = performance.now();
  trainByteLevelBpe(Array.from({ length: 4 }, () => texts).flat(), { vocabSize: 1024, specialTokens: ['<|eos|>'] });
  assert.ok(performance.now() - started < 10_000);
});

test.run();
