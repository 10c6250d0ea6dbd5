import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { RowError, RowTooLong } from '../../src/data/collect.ts';
import { encodeCompletion, encodeDemonstration, encodeDocument, encodePrompt } from '../../src/data/encode.ts';
import { asDemonstration } from '../../src/data/rows.ts';
import { UsageError } from '../../src/errors.ts';
import { Tokenizer } from '../../src/text/tokenizer.ts';

const fixtures = join(process.env.RLHF_ROOT!, 'test/fixtures/text');
const stories = await Tokenizer.load(join(fixtures, 'stories260K'));
const gpt2 = await Tokenizer.load(join(fixtures, 'gpt2-pruned'));
const chatml = await Tokenizer.load(join(fixtures, 'chat/chatml'));
const list = (ids: ArrayLike<number>) => Array.from(ids);

test('prompt and completion are tokenised apart and joined, then EOS', () => {
  const { ids, mask } = encodeDemonstration(stories, asDemonstration({ prompt: 'Once', completion: ' upon a' }));
  // ▁ stands before each text of this tokenizer, so before the completion, too.
  const prompt = [1, ...stories.encode('Once')];
  const response = [...stories.encode(' upon a'), 2];
  assert.equal(list(ids), [...prompt, ...response]);
  assert.equal(list(mask), [...prompt.map(() => 0), ...response.map(() => 1)]);
  assert.not.equal(list(ids), [...stories.encodePrompt('Once upon a'), 2]);
  // The prompt's ids do not depend on what follows.
  assert.equal(list(ids).slice(0, prompt.length), list(encodePrompt(stories, 'Once')));
});

test('a completion that was cut off has no EOS', () => {
  const prompt = encodePrompt(gpt2, 'Hello');
  const stop = encodeCompletion(gpt2, prompt, ' World', 'stop');
  const cut = encodeCompletion(gpt2, prompt, ' World', 'length');
  assert.is(stop.promptLength, prompt.length);
  assert.is(list(stop.ids).at(-1), gpt2.eosId);
  assert.equal(list(cut.ids), list(stop.ids).slice(0, -1));
  assert.equal(list(encodeCompletion(gpt2, prompt, '', 'stop').ids), [...prompt, gpt2.eosId]);
});

test('an empty prompt needs a tokenizer that adds BOS', () => {
  assert.equal(list(encodePrompt(stories, '')), [1]);
  assert.throws(() => encodePrompt(gpt2, ''), (e: Error) => e instanceof RowError && /prompt is empty/.test(e.message));
});

const conversation = [
  { role: 'user', content: 'Hi' },
  { role: 'assistant', content: 'Hello' },
  { role: 'user', content: 'Bye' },
  { role: 'assistant', content: 'See you' },
];
const learnt = (row: Record<string, unknown>) => {
  const { ids, mask } = encodeDemonstration(chatml, asDemonstration(row));
  return chatml.decode(list(ids).filter((_, t) => mask[t] === 1));
};

test('a conversation: each assistant turn is learnt, those of the prompt are not', () => {
  assert.is(learnt({ messages: conversation }), 'Hello<|im_end|>See you<|im_end|>');
  assert.is(learnt({ prompt: conversation.slice(0, 3), completion: conversation.slice(3) }), 'See you<|im_end|>');
  const { ids } = encodeDemonstration(chatml, asDemonstration({ messages: conversation }));
  assert.equal(list(ids), chatml.chatIds(conversation));
  // The same prompt and answer, as sampling and scoring put them together.
  const prompt = encodePrompt(chatml, conversation.slice(0, 3));
  const scored = encodeCompletion(chatml, prompt, 'See you', 'stop');
  assert.equal(list(scored.ids), list(ids).slice(0, scored.ids.length));
});

test('a conversation that the template refuses is a bad row', async () => {
  const strict = await Tokenizer.load(join(fixtures, 'chat/chatml'));
  strict.setChatTemplate("{{ raise_exception('no system message here') }}");
  assert.throws(
    () => encodePrompt(strict, conversation.slice(0, 1)),
    (e: Error) => e instanceof RowError && /no system message here/.test(e.message),
  );
});

test('a text row is BOS, the text, EOS, and learnt from the second token on', () => {
  const { ids, mask } = encodeDemonstration(stories, { kind: 'text', text: 'Once' });
  assert.equal(list(ids), [1, ...stories.encode('Once'), 2]);
  assert.equal(list(mask), list(ids).map((_, t) => (t === 0 ? 0 : 1)));
  assert.equal(list(encodeDocument(stories, 'Once')), list(ids));
  assert.equal(list(encodeDocument(gpt2, '')), [50256, 50256]);
});

test('a row too long is refused, or loses the end of its response', () => {
  const row = asDemonstration({ prompt: 'Hello', completion: ' World World World' });
  const whole = encodeDemonstration(gpt2, row);
  const context = whole.ids.length - 2;
  assert.equal(encodeDemonstration(gpt2, row, { context: whole.ids.length }), whole);
  assert.throws(
    () => encodeDemonstration(gpt2, row, { context }),
    (e: Error) => e instanceof RowTooLong && e.message === `${whole.ids.length} tokens, the context has ${context}` &&
      /--truncate.*--skip-long/.test(e.hint!),
  );
  const cut = encodeDemonstration(gpt2, row, { context, truncate: true });
  assert.equal(list(cut.ids), list(whole.ids).slice(0, context));
  assert.equal(list(cut.mask), list(whole.mask).slice(0, context));
  // A prompt that leaves no room stays an error.
  assert.throws(() => encodeDemonstration(gpt2, row, { context: 1, truncate: true }), /prompt alone has \d+ tokens/);
  const chat = asDemonstration({ messages: conversation });
  const first = encodeDemonstration(chatml, chat).mask.indexOf(1);
  assert.is(encodeDemonstration(chatml, chat, { context: first + 1, truncate: true }).mask.indexOf(1), first);
  assert.throws(() => encodeDemonstration(chatml, chat, { context: first, truncate: true }), /the prompt alone/);
});

test('a token that the embedding has no row for makes a bad row, wherever it stands; other rows are read as before', async () => {
  const small = await Tokenizer.load(join(fixtures, 'stories260K'));
  const rows = Math.max(...stories.encode('Tim said'));
  small.limitIds(rows, 'model');
  const message = `holds "${stories.tokenOf(rows)}", token ${rows}, but the model's embedding has ${rows} rows`;
  for (const read of [
    () => encodePrompt(small, 'Tim said'),
    () => encodeCompletion(small, [1], 'Tim said', 'stop'),
    () => encodeDocument(small, 'Tim said'),
    () => encodeDemonstration(small, asDemonstration({ prompt: 'a', completion: 'Tim said' })),
  ]) assert.throws(read, (e: Error) => e instanceof RowError && e.message === message);
  assert.equal(encodePrompt(small, 'a'), encodePrompt(stories, 'a'));
  const chat = await Tokenizer.load(join(fixtures, 'chat/chatml'));
  const pad = chat.idOf('<|pad|>')!;
  assert.throws(() => chat.limitIds(chat.eosId, 'model'), (e: Error) => e instanceof UsageError
    && e.message === `model/tokenizer.json: EOS "<|im_end|>" has the id ${chat.eosId}, but the model's embedding has ${chat.eosId} rows`);
  chat.limitIds(chat.eosId + 1, 'model');
  assert.is(encodePrompt(chat, [{ role: 'user', content: '<|pad|>' }]).includes(pad), true);
});

test.run();
