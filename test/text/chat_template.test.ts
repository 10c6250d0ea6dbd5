import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { UsageError } from '../../src/errors.ts';
import { ChatTemplate, ChatTemplateError, type Message } from '../../src/text/chat_template.ts';
import { Tokenizer } from '../../src/text/tokenizer.ts';

const folder = join(process.env.RLHF_ROOT!, 'test/fixtures/text/chat');
interface Case {
  template: string;
  messages: Message[];
  add_generation_prompt: boolean;
  rendered: string | null;
  ids: number[] | null;
  error: string | null;
}
const cases = JSON.parse(readFileSync(join(folder, 'cases.json'), 'utf8')).cases as Case[];
const tokenizers = new Map<string, Tokenizer>();
for (const name of ['chatml', 'llama3', 'zephyr']) tokenizers.set(name, await Tokenizer.load(join(folder, name)));

test('renders and tokenises every case as transformers does', () => {
  for (const c of cases) {
    const tokenizer = tokenizers.get(c.template)!;
    const options = { addGenerationPrompt: c.add_generation_prompt };
    if (c.error) {
      assert.throws(() => tokenizer.renderChat(c.messages, options), (e: Error) => e instanceof ChatTemplateError);
    } else {
      assert.is(tokenizer.renderChat(c.messages, options), c.rendered);
      assert.equal(tokenizer.chatIds(c.messages, options), c.ids);
    }
  }
});

const conversation: Message[] = [
  { role: 'system', content: 'You are terse.' },
  { role: 'user', content: 'Hi!' },
  { role: 'assistant', content: 'Hello.' },
  { role: 'user', content: 'Bye' },
  { role: 'assistant', content: 'See you.' },
];

test('assistant turns are the answers with their end-of-turn token and nothing else', () => {
  for (const [name, end] of [['chatml', '<|im_end|>'], ['llama3', '<|eot_id|>'], ['zephyr', '</s>']]) {
    const tokenizer = tokenizers.get(name)!;
    const { ids, turns } = tokenizer.chatTurns(conversation);
    assert.equal(ids, tokenizer.chatIds(conversation), name);
    assert.equal(turns.map(({ index }) => index), [2, 4]);
    const texts = turns.map(({ begin, end }) => tokenizer.decode(ids.slice(begin, end)));
    assert.equal(texts, [`Hello.${end}`, `See you.${end}`], name);
    // A prompt's ids are what comes before the turn.
    const prompt = tokenizer.chatIds(conversation.slice(0, 4), { addGenerationPrompt: true });
    assert.equal(ids.slice(0, turns[1].begin), prompt, name);
  }
});

test('turns are found with a tokenizer that puts a space before each text', async () => {
  const tokenizer = await Tokenizer.load(join(folder, '../stories260K'));
  tokenizer.setChatTemplate(
    "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + eos_token + '\\n' }}{% endfor %}" +
      "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
  );
  const { ids, turns } = tokenizer.chatTurns(conversation);
  assert.equal(ids, tokenizer.chatIds(conversation));
  assert.equal(
    turns.map(({ begin, end }) => tokenizer.decode(ids.slice(begin, end))),
    ['Hello.</s>', 'See you.</s>'],
  );
});

test('a turn without an end-of-turn token goes to its end', async () => {
  const tokenizer = await Tokenizer.load(join(folder, 'chatml'));
  tokenizer.setChatTemplate("{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}" +
    '{% if add_generation_prompt %}assistant: {% endif %}');
  const { ids, turns } = tokenizer.chatTurns(conversation);
  const texts = turns.map(({ begin, end }) => tokenizer.decode(ids.slice(begin, end)));
  // The space before the answer is part of its first token.
  assert.equal(texts, [' Hello.\n', ' See you.\n']);
});

test('a template that rewrites earlier turns is an error', () => {
  const template = new ChatTemplate('{% for m in messages %}[{{ m.role }}]' +
    "{% if loop.last %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}");
  assert.throws(() => template.renderTurns(conversation), /renders message 3 differently/);
});

test('a broken template, or none, is an error that names --chat-template', async () => {
  const tokenizer = await Tokenizer.load(join(folder, 'chatml'));
  tokenizer.setChatTemplate('{% for m in messages %}');
  assert.throws(() => tokenizer.chatTemplate(), (e: Error) => e instanceof UsageError && /Jinja/.test(e.message));
  const plain = await Tokenizer.load(join(folder, '../stories260K'));
  assert.throws(
    () => plain.renderChat(conversation),
    (e: UsageError) => e instanceof UsageError && /--chat-template/.test(e.hint!),
  );
});

test('expressions mean what they mean in Python', () => {
  const messages = [{ role: 'user', content: '\n\n \ufeffx.\n' }, { role: 'assistant', content: '' }];
  // Expected: transformers' apply_chat_template with Jinja2 3.1.6, a line a message.
  const expected: Record<string, [string, string]> = {
    "m.content.strip('\\n')": [' \ufeffx.', ''],
    "m.content.lstrip('\\n')": [' \ufeffx.\n', ''],
    "m.content.rstrip('\\n.')": ['\n\n \ufeffx', ''],
    'm.content | trim': ['\ufeffx.', ''],
    'm.content.split() | join("/")': ['\ufeffx.', ''],
    "'a\\u001c b\\u0085c  d'.split(none, 2) | join('/')": ['a/b/c  d', 'a/b/c  d'],
    "m.content == false or m.content == 0": ['False', 'False'],
    "m.content != ''": ['True', 'False'],
    "'1' == 1 or none == m.missing or none == false": ['False', 'False'],
    '[1, [2]] == [1, [2]] and {"a": 1} == {"a": 1.0} and 1 == true': ['True', 'True'],
    "m.content ~ none ~ true ~ m.missing": ['\n\n \ufeffx.\nNoneTrue', 'NoneTrue'],
    'none': ['None', 'None'],
    '-7 % 3': ['2', '2'],
    '"hELLO wORLD".capitalize() ~ "hELLO (wORLD" | title': ['Hello worldHello (World', 'Hello worldHello (World'],
    '"👍x" | length ~ ("👍x" | list | first)': ['2👍', '2👍'],
    '"<s>a".removeprefix("<s>").removesuffix("")': ['a', 'a'],
    "messages | rejectattr('role', '==', 'user') | map(attribute='role') | join": ['assistant', 'assistant'],
    'm is iterable': ['True', 'True'],
    "([] | first) | default('none')": ['none', 'none'],
  };
  for (const [expression, texts] of Object.entries(expected)) {
    const template = new ChatTemplate(`{% for m in messages %}{% set quiet = none %}<{{ ${expression} }}>{% endfor %}`);
    assert.is(template.render(messages), texts.map((text) => `<${text}>`).join(''), expression);
  }
});

test("Llama 2's template keeps a system message that is empty or a zero", () => {
  const template = new ChatTemplate("{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}" +
    "{% else %}{% set system_message = false %}{% endif %}{% if system_message != false %}<<SYS>>{{ system_message }}<</SYS>>{% endif %}");
  for (const content of ['', '0']) assert.is(template.render([{ role: 'system', content }]), `<<SYS>>${content}<</SYS>>`);
  assert.is(template.render([{ role: 'user', content: '' }]), '');
});

test('line ends of a template written on Windows are line feeds', () => {
  const template = new ChatTemplate("{% for m in messages %}\r\n{{ '<' + m.content + '\r\n>' }}\r\n{% endfor %}\r\nend\r\n");
  assert.is(template.render([{ role: 'user', content: 'a\r\n' }]), '<a\r\n\n>\nend');
});

test('of several named templates the default is taken, whether they are a list or an object', () => {
  const [one, two] = ['one', 'two'].map((text) => `${text}: {{ messages[0].content }}`);
  const read = (templates: unknown) =>
    Tokenizer.fromJson(JSON.parse(tokenizers.get('chatml')!.files.get('tokenizer.json')!), { eos_token: '<|im_end|>', chat_template: templates })
      .renderChat([{ role: 'user', content: 'hi' }]);
  assert.is(read([{ name: 'tool_use', template: one }, { name: 'default', template: two }]), 'two: hi');
  assert.is(read({ tool_use: one, default: two }), 'two: hi');
  assert.throws(() => read({ tool_use: one, rag: two }), /"default"/);
});

test.run();
