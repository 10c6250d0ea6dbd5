// How a text is normalised and cut before merging.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BYTE_TO_CHAR } from '../../src/text/byte_level.ts';
import { Tokenizer } from '../../src/text/tokenizer.ts';

const fixtures = join(process.env.RLHF_ROOT!, 'test/fixtures/text');
const read = (name: string) => JSON.parse(readFileSync(join(fixtures, name), 'utf8'));
const stories = await Tokenizer.load(join(fixtures, 'stories260K'));
const gpt2 = await Tokenizer.load(join(fixtures, 'gpt2-pruned'));

test('pre-tokenizers that the JavaScript library treats otherwise', () => {
  const json = read('gpt2-pruned/tokenizer.json');
  const bytes = { type: 'ByteLevel', add_prefix_space: false, use_regex: true };
  const words = (pre_tokenizer: unknown, text: string) => {
    const tokenizer = Tokenizer.fromJson({ ...json, pre_tokenizer, model: { ...json.model, merges: [] } });
    return tokenizer.encode(text).map((id) => tokenizer.decode([id]));
  };
  // Digits are Unicode's; each by itself is what SmolLM2 does.
  const digits = { type: 'Sequence', pretokenizers: [{ type: 'Digits', individual_digits: true }, bytes] };
  assert.equal(words(digits, 'a12'), ['a', '1', '2']);
  assert.equal(words({ ...bytes, add_prefix_space: true }, 'ab'), [' ', 'a', 'b']);
  assert.equal(words({ ...bytes, add_prefix_space: true }, ' ab'), [' ', 'a', 'b']);
  const prefixed = Tokenizer.fromJson({ ...json, pre_tokenizer: { ...bytes, add_prefix_space: true } });
  assert.equal(prefixed.encode('🙂 🙂'), gpt2.encode(' 🙂 🙂'));
  const unknown = { type: 'Split', pattern: { String: ' ' }, behavior: 'MergedWithBoth' };
  assert.throws(() => words(unknown, 'a'), /MergedWithBoth/);
});

/** The pieces that a pre-tokenizer makes of a text, byte-level: every part of the text is a token, and taken whole. */
function pieces(pre: object, text: string, normalizer: object | null = null, normal = text): string[] {
  const bytes = [...Buffer.from(normal)].map((byte) => BYTE_TO_CHAR[byte]);
  const vocab: Record<string, number> = { '<end>': 0 };
  for (let i = 0; i < bytes.length; i++) for (let j = i + 1; j <= bytes.length; j++) vocab[bytes.slice(i, j).join('')] ??= Object.keys(vocab).length;
  const level = { type: 'ByteLevel', add_prefix_space: false, use_regex: false };
  const tokenizer = Tokenizer.fromJson({
    normalizer, pre_tokenizer: { type: 'Sequence', pretokenizers: [pre, level] }, added_tokens: [], decoder: level,
    model: { type: 'BPE', ignore_merges: true, vocab: { ...vocab, a: vocab['a'] ?? Object.keys(vocab).length }, merges: [] },
  }, { eos_token: '<end>' });
  return tokenizer.encode(text).map((id) => tokenizer.decode([id]));
}

test('Metaspace cuts before each space unless split is false: no merge reaches across (as tokenizers 0.23 does)', () => {
  const merges = [['▁', '▁'], ['r', '▁'], ['d', '▁'], ['▁', 'r'], ['e', 'd'], ['▁r', 'ed'], ['c', 'a'], ['▁', 'ca'], ['▁ca', 'r'], ['▁▁', '▁'], ['▁', 'b']];
  const entries = ['<unk>', '</s>', ...'abcdelrt▁', ...merges.map((pair) => pair.join(''))];
  const model = { type: 'BPE', unk_token: '<unk>', merges, vocab: Object.fromEntries(entries.map((entry, id) => [entry, id])) };
  const pieces = (split: object, text: string) => {
    const json = { added_tokens: [], model, pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', ...split } };
    const tokenizer = Tokenizer.fromJson(json, { eos_token: '</s>' });
    return tokenizer.encode(text).map((id) => tokenizer.tokenOf(id));
  };
  for (const split of [{}, { split: true }]) {
    assert.equal(pieces(split, 'red car  b a'), ['▁red', '▁car', '▁', '▁b', '▁', 'a']);
    assert.equal(pieces(split, 'tr  red   car'), ['▁', 't', 'r', '▁', '▁red', '▁', '▁', '▁car']);
    assert.equal(pieces(split, 'a▁b '), ['▁', 'a', '▁b', '▁']);
  }
  assert.equal(pieces({ split: false }, 'red car  b a'), ['▁r', 'e', 'd▁', 'ca', 'r', '▁▁', 'b', '▁', 'a']);
});

test('splits with every behaviour, on punctuation and on words, cut as the Rust library does', () => {
  // Expected: tokenizers 0.23.3 with the same JSON.
  const text = '..a b. ,c  de';
  const cut = (behavior: string, invert = false) => pieces({ type: 'Split', pattern: { Regex: '[ .]' }, behavior, invert }, text);
  const [before, after] = [['.', '.', 'a ', 'b.', ' ', ',c ', ' ', 'de'], ['.', '.a', ' b', '.', ' ,c', ' ', ' de']];
  assert.equal(cut('MergedWithPrevious'), before);
  assert.equal(cut('MergedWithNext', true), before);
  assert.equal(cut('MergedWithNext'), after);
  assert.equal(cut('MergedWithPrevious', true), after);
  for (const invert of [false, true]) {
    assert.equal(cut('Contiguous', invert), ['..', 'a', ' ', 'b', '. ', ',c', '  ', 'de']);
    assert.equal(cut('Isolated', invert), ['.', '.', 'a', ' ', 'b', '.', ' ', ',c', ' ', ' ', 'de']);
  }
  assert.equal(cut('Removed'), ['a', 'b', ',c', 'de']);
  assert.equal(cut('Removed', true), ['.', '.', ' ', '.', ' ', ' ', ' ']);
  const marks = (behavior: string) => pieces({ type: 'Punctuation', behavior }, 'a..b_ c!？d$x');
  assert.equal(marks('Isolated'), ['a', '.', '.', 'b', '_', ' c', '!', '？', 'd', '$', 'x']);
  assert.equal(marks('Contiguous'), ['a', '..', 'b', '_', ' c', '!？', 'd', '$', 'x']);
  assert.equal(pieces({ type: 'Whitespace' }, 'a\u200db\u0301,²c ½-_d'), ['a\u200db\u0301', ',²', 'c', '½-', '_d']);
});

test('normalizers that strip spaces and accents', () => {
  const digits = { type: 'Digits', individual_digits: false };
  const both = { type: 'Strip', strip_left: true, strip_right: true };
  assert.equal(pieces(digits, '\u3000 a1 b\n\u0085', both, 'a1 b'), ['a', '1', ' b']);
  assert.equal(pieces(digits, ' a1 b ', { ...both, strip_right: false }, 'a1 b '), ['a', '1', ' b ']);
  assert.equal(pieces(digits, 'e\u0301a\u0903b\u20dd1', { type: 'StripAccents' }, 'eab1'), ['eab', '1']);
});

test('without an unknown token a character that has no entry is left out before merging', () => {
  const level = { type: 'ByteLevel', add_prefix_space: false, use_regex: true };
  const model = { type: 'BPE', vocab: { '<end>': 0, h: 1, e: 2, Ġ: 3, he: 4, a: 5 }, merges: [['h', 'e']] };
  const json = { pre_tokenizer: level, decoder: level, added_tokens: [], model };
  const tokens = (text: string) => {
    const tokenizer = Tokenizer.fromJson(json, { eos_token: '<end>' });
    return tokenizer.encode(text).map((id) => tokenizer.tokenOf(id));
  };
  assert.equal(tokens('hQe hé he'), ['he', 'Ġ', 'h', 'Ġ', 'he']);
  assert.equal(tokens('Q!'), []);
  const other = Tokenizer.fromJson({ ...json, pre_tokenizer: null }, { eos_token: '<end>' });
  assert.equal(other.encode('hQ e').map((id) => other.tokenOf(id)), ['he']);
  // Fused unknowns: one for a run, but none for those of two words (tokenizers 0.23.3).
  const fused = Tokenizer.fromJson({ ...json, model: { ...model, vocab: { ...model.vocab, '<unk>': 6 }, unk_token: '<unk>', fuse_unk: true } }, { eos_token: '<end>' });
  assert.equal(fused.encode('hQQe !!').map((id) => fused.tokenOf(id)), ['h', '<unk>', 'e', 'Ġ', '<unk>']);
  assert.equal(fused.encode('Q! h').map((id) => fused.tokenOf(id)), ['<unk>', '<unk>', 'Ġ', 'h']);
});

test('a document without pre-tokenizer is cut into words without another id', () => {
  const text = 'Once upon a  time,\n   there was a little girl 🙂 named Lily▁x. ';
  const whole = read('stories260K/tokenizer.json');
  // ignore_merges switches the cutting off and, with no text in the vocabulary, does nothing else.
  const uncut = Tokenizer.fromJson(
    { ...whole, model: { ...whole.model, ignore_merges: true } },
    read('stories260K/tokenizer_config.json'),
  );
  assert.equal(stories.encode(text.repeat(20)), uncut.encode(text.repeat(20)));
});

test.run();
