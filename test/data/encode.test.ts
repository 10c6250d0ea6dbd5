import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { RowError, RowTooLong } from '../../src/data/collect.ts';
import { encodeCompletions, encodeDemonstration, encodeDocument, encodePrompt, withRoom } from '../../src/data/encode.ts';
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
  const { promptIds, ids: [stop, cut] } = encodeCompletions(gpt2, prompt, [' World', ' World'], ['stop', 'length']);
  assert.equal(promptIds, prompt);
  assert.is(list(stop).at(-1), gpt2.eosId);
  assert.equal(list(cut), list(stop).slice(0, -1));
  assert.equal(list(encodeCompletions(gpt2, prompt, [''], ['stop']).ids[0]), [...prompt, gpt2.eosId]);
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
  const [scored] = encodeCompletions(chatml, prompt, ['See you'], ['stop']).ids;
  assert.equal(list(scored), list(ids).slice(0, scored.length));
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
  const chat = asDemonstration({ messages: conversation });
  const first = encodeDemonstration(chatml, chat).mask.indexOf(1);
  assert.is(encodeDemonstration(chatml, chat, { context: first + 1, truncate: true }).mask.indexOf(1), first);
});

test('of a prompt that alone fills the context --truncate keeps the end, so much that the longest response fits', () => {
  const prompt = Int32Array.from({ length: 10 }, (_, i) => 20 + i);
  const [long, short] = [gpt2.encode(' World World World'), gpt2.encode(' World')];
  assert.equal([long.length, short.length], [3, 1]);
  const cut = encodeCompletions(gpt2, prompt, [' World World World', ' World'], ['stop', 'length'], { context: 8, truncate: true });
  assert.equal(list(cut.promptIds), [26, 27, 28, 29]);
  assert.equal(cut.ids.map(list), [[...cut.promptIds, ...long, gpt2.eosId], [...cut.promptIds, ...short]]);
  // A response of more than half of the context loses its end.
  const narrow = encodeCompletions(gpt2, prompt, [' World World World'], ['stop'], { context: 5, truncate: true });
  assert.equal([list(narrow.promptIds), list(narrow.ids[0])], [[28, 29], [28, 29, ...long]]);
  const narrower = encodeCompletions(gpt2, prompt, [' World World World'], ['stop'], { context: 4, truncate: true });
  assert.equal([list(narrower.promptIds), list(narrower.ids[0])], [[28, 29], [28, 29, ...long.slice(0, 2)]]);
  // A prompt with room after it is kept whole.
  assert.is(encodeCompletions(gpt2, prompt, [' World World World'], ['stop'], { context: 11, truncate: true }).promptIds.length, 10);
  assert.throws(() => encodeCompletions(gpt2, prompt, [' World'], ['stop'], { context: 8 }), /^12 tokens, the context has 8$/);

  const row = asDemonstration({ prompt: 'Hello World Hello World Hello', completion: ' World' });
  const whole = encodeDemonstration(gpt2, row);
  const context = whole.mask.indexOf(1) - 1;
  const end = encodeDemonstration(gpt2, row, { context, truncate: true });
  assert.equal([list(end.ids), list(end.mask)], [list(whole.ids).slice(-context), list(whole.mask).slice(-context)]);
  const chat = encodeDemonstration(chatml, asDemonstration({ messages: conversation.slice(0, 2) }));
  const begin = chat.mask.indexOf(1);
  const last = encodeDemonstration(chatml, asDemonstration({ messages: conversation.slice(0, 2) }), { context: begin, truncate: true });
  assert.is(last.ids.length, begin);
  assert.equal([list(last.ids), list(last.mask)], [list(chat.ids).slice(-begin), list(chat.mask).slice(-begin)]);
});

test('a prompt that is cut keeps the tokenizer\'s BOS', () => {
  const prompt = encodePrompt(stories, 'Once upon a time there was a cat');
  const cut = withRoom(stories, prompt, 8, { truncate: true, maxNewTokens: 3 });
  assert.equal(list(cut), [1, ...list(prompt).slice(-4)]);
  const { promptIds } = encodeCompletions(stories, prompt, [''], ['stop'], { context: 8, truncate: true });
  assert.equal(list(promptIds), [1, ...list(prompt).slice(-6)]);
  assert.equal(list(withRoom(stories, prompt, 8, { truncate: true, maxNewTokens: 7 })), list(prompt).slice(-1), 'no room for it');
  assert.equal(list(withRoom(stories, prompt, 99, { truncate: true, maxNewTokens: 3 })), list(prompt));
});

test('of an assistant turn only white space behind its end is left out', () => {
  const turn = (template: string, content: string) => {
    const tokenizer = Tokenizer.fromJson(JSON.parse(chatml.files.get('tokenizer.json')!), { ...JSON.parse(chatml.files.get('tokenizer_config.json')!), chat_template: template });
    const { ids, mask } = encodeDemonstration(tokenizer, asDemonstration({ messages: [{ role: 'user', content: 'Hi' }, { role: 'assistant', content }] }));
    return tokenizer.decode(list(ids).filter((_, t) => mask[t] === 1));
  };
  const lines = '{% for m in messages %}### {{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}### assistant: {% endif %}';
  assert.is(turn(lines, 'Hello'), ' Hello\n');
  assert.is(turn(lines, 'write <|im_end|> after it'), ' write <|im_end|> after it\n');
  const spaced = '{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|> \n\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}';
  assert.is(turn(spaced, 'Hello'), 'Hello<|im_end|>');
});

test('a token that the embedding has no row for makes a bad row, wherever it stands; other rows are read as before', async () => {
  const small = await Tokenizer.load(join(fixtures, 'stories260K'));
  const rows = Math.max(...stories.encode('Tim said'));
  small.limitIds(rows, 'model');
  const message = `holds "${stories.tokenOf(rows)}", token ${rows}, but the model's embedding has ${rows} rows`;
  for (const read of [
    () => encodePrompt(small, 'Tim said'),
    () => encodeCompletions(small, Int32Array.of(1), ['Tim said'], ['stop']),
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
