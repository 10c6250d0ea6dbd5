import { writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Conversation } from '../../src/stages/chat.ts';
import { StopFilter } from '../../src/stages/stop_filter.ts';
import { Tokenizer } from '../../src/text/tokenizer.ts';
import { MODELS } from '../files/temporary.ts';
import { buildWholeProgram, jsonLines, outcome, type WholeProgram } from '../properties/program.ts';

const STORIES = join(MODELS, 'stories260K');
const TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
const CHAT = ['chat', '--model', STORIES, '--quiet', '--max-new-tokens', '24', '--greedy'];
let rlhf: WholeProgram;
test.before(async () => {
  rlhf = await buildWholeProgram();
  writeFileSync(rlhf.path('template.jinja'), TEMPLATE);
});
test.after(() => rlhf.remove());

/** What a filter lets through of these pieces. */
const filtered = (stops: string[], pieces: string[]): string[] => {
  const filter = new StopFilter(stops);
  return [...pieces.map((piece) => filter.push(piece)), filter.end()];
};

test('a stop text never shows, not even its beginning; what only began like one does', () => {
  assert.equal(filtered(['END'], ['a', 'bE', 'N', 'D c', 'd']), ['a', 'b', '', '', '', '']);
  assert.equal(filtered(['END'], ['abEN', 'x', 'E']), ['ab', 'ENx', '', 'E']);
  assert.equal(filtered(['\n\n', 'User:'], ['hi\n', 'Us', 'er', ': no']), ['hi', '\n', '', '', '']);
  assert.equal(filtered(['aab'], ['aa', 'ab']), ['', 'a', '']);
  assert.equal(filtered([], ['a', 'b']), ['a', 'b', '']);
});

test('without a template each line is a prompt by itself, answered as sample answers it, one line each', async () => {
  const prompts = ['Once upon a time', 'The dog was', 'Lily saw a big'];
  const expected = jsonLines(await rlhf.succeed(['sample', '--model', STORIES, '--quiet', '--max-new-tokens', '24', '--greedy'],
    prompts.map((prompt) => `${JSON.stringify({ prompt })}\n`).join(''))).map((row) => row.completion.replace(/\s*\n\s*/g, ' ').trim());
  const answers = (await rlhf.succeed(CHAT, `${prompts[0]}\n\n${prompts[1]}\n/reset\n${prompts[2]}\n/exit\nnot asked\n`)).split('\n');
  assert.equal(answers, [...expected, '']);
  assert.ok(answers[0].length > 30, answers[0]);
});

test('a backslash joins lines, and the last line needs no end', async () => {
  const input = 'Once upon\\\n a time';
  const [{ completion }] = jsonLines(await rlhf.succeed(['sample', '--model', STORIES, '--quiet', '--max-new-tokens', '24', '--greedy'],
    JSON.stringify({ prompt: 'Once upon\n a time' })));
  assert.is(await rlhf.succeed(CHAT, input), `${completion.replace(/\s*\n\s*/g, ' ').trim()}\n`);
});

test('an answer ends before a stop text', async () => {
  const whole = await rlhf.succeed(CHAT, 'Once upon a time\n');
  const stop = whole.slice(20, 23);
  assert.is(await rlhf.succeed([...CHAT, '--stop', stop], 'Once upon a time\n'), `${whole.slice(0, whole.indexOf(stop)).trim()}\n`);
});

test('with a template the conversation is remembered until /reset', async () => {
  const chat = [...CHAT, '--chat-template', 'template.jinja'];
  const answers = async (...said: string[]): Promise<string[]> => (await rlhf.succeed(chat, said.map((line) => `${line}\n`).join(''))).trimEnd().split('\n');
  const [first, later] = await answers('Hello', 'The cat ran.');
  const [alone] = await answers('The cat ran.');
  assert.is.not(later, alone, 'the answer knows of what was said before');
  assert.equal(await answers('Hello', '/reset', 'The cat ran.'), [first, alone]);
});

test('the oldest turns are forgotten when the context is full, the system message never; too long a message is refused', async () => {
  const tokenizer = await Tokenizer.load(STORIES);
  tokenizer.setChatTemplate(TEMPLATE);
  const notes: string[] = [];
  const CONTEXT = 120;
  const talk = new Conversation(tokenizer, CONTEXT, { system: 'Be kind.', maxNewTokens: 20 });
  for (let i = 0; i < 12; i++) {
    const ids = talk.ask(`What is number ${i}?`, (line) => notes.push(line));
    assert.ok(ids.length <= CONTEXT - 20, `${ids.length} tokens`);
    const text = tokenizer.decode(ids, { skipSpecialTokens: true });
    assert.match(text, /system: Be kind\./);
    assert.match(text, new RegExp(`number ${i}\\?\\s+assistant:\\s*$`));
    talk.answer(`It is ${i}.`);
  }
  assert.ok(notes.length > 0);
  assert.match(notes[0], /oldest turn is forgotten/);
  assert.throws(() => talk.ask('long '.repeat(200), () => undefined), /leaves no room for an answer/);
  assert.match(tokenizer.decode(talk.ask('And now?', () => undefined)), /And now\?/, 'goes on after a refusal');
});

test('--system without a template is refused', async () => {
  const { code, stderr } = await rlhf.run([...CHAT, '--system', 'x'], 'a\n');
  assert.is(code, 2);
  assert.match(stderr, /--system: the model has no chat template/);
});

test('an interruption ends it with 130', async () => {
  const child = rlhf.start(['chat', '--model', STORIES, '--quiet', '--max-new-tokens', '400', '--temperature', '1']);
  const ended = outcome(child);
  child.stdin!.write('Once upon a time\n');
  await Promise.race([once(child.stdout!, 'data'), ended]); // it answers, and waits for more
  child.kill('SIGINT');
  assert.is((await ended).code, 130);
});

test.run();
