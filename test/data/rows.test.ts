import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { RowError } from '../../src/data/collect.ts';
import { asCompletions, asDemonstration, asPrompt, asRanking, asText } from '../../src/data/rows.ts';

const user = { role: 'user', content: 'Hi' };
const assistant = { role: 'assistant', content: 'Hello' };
const system = { role: 'system', content: 'Be brief' };

type Reader = (value: Record<string, unknown>) => unknown;
function refuses(read: Reader, value: object, message: RegExp): void {
  assert.throws(
    () => read(value as Record<string, unknown>),
    (e: Error) => e instanceof RowError && (message.test(e.message) || assert.unreachable(e.message) === undefined),
  );
}

test('demonstrations in all their forms', () => {
  assert.equal(asDemonstration({ prompt: 'a', completion: '' }), { kind: 'pair', prompt: 'a', completion: '', finishReason: 'stop' });
  assert.equal(asDemonstration({ prompt: 'a', completion: 'b', finish_reason: 'length' }), { kind: 'pair', prompt: 'a', completion: 'b', finishReason: 'length' });
  assert.equal(asDemonstration({ messages: [system, user, assistant] }), {
    kind: 'chat',
    messages: [system, user, assistant],
    given: 0,
  });
  assert.equal(asDemonstration({ prompt: [user, assistant, user], completion: [assistant], id: 7 }), {
    kind: 'chat',
    messages: [user, assistant, user, assistant],
    given: 3,
  });
  assert.equal(asDemonstration({ instruction: 'Add', input: '1 2', output: '3' }), {
    kind: 'pair',
    prompt: 'Add\n\n1 2\n\n',
    completion: '3',
    finishReason: 'stop',
  });
  for (const input of ['', null, undefined]) {
    const row = asDemonstration({ instruction: 'Sing', input, output: 'la' });
    assert.equal(row, { kind: 'pair', prompt: 'Sing\n\n', completion: 'la', finishReason: 'stop' });
  }
  assert.equal(asDemonstration({ text: 'x' }), { kind: 'text', text: 'x' });
});

test('demonstrations that are none', () => {
  refuses(asDemonstration, {}, /needs "prompt" and "completion".*no fields/);
  refuses(asDemonstration, { question: 'a' }, /the row has "question"/);
  refuses(asDemonstration, { prompt: 'a' }, /^"completion" is missing$/);
  refuses(asDemonstration, { prompt: 'a', completion: 'b', finish_reason: 'end' }, /"finish_reason" is "end", expected "stop" or "length"/);
  refuses(asDemonstration, { completion: 'a' }, /^"prompt" is missing$/);
  refuses(asDemonstration, { prompt: 1, completion: 'a' }, /"prompt" is a number, expected a list/);
  refuses(asDemonstration, { prompt: 'a', completion: null }, /"completion" is null, expected a text/);
  refuses(asDemonstration, { prompt: 'a', completion: [assistant] }, /both must be texts or both lists/);
  refuses(asDemonstration, { prompt: [user], completion: 'a' }, /"completion" is a text, expected a list of messages/);
  refuses(asDemonstration, { prompt: [user], completion: [user] }, /"completion" is unbalanced/);
  refuses(asDemonstration, { prompt: [user], completion: [{ text: 'a' }] }, /"completion\[0\]\.role" is missing/);
  refuses(asDemonstration, { instruction: 'a' }, /"output" is missing/);
  refuses(asDemonstration, { instruction: 'a', input: 3, output: 'b' }, /"input" is a number/);
  refuses(asDemonstration, { prompt: 'a', completion: '\ud800' }, /"completion" holds half of a surrogate pair/);
});

test('messages: system first or not at all, then user and assistant in turn', () => {
  const chat = (...messages: unknown[]) => ({ messages });
  refuses(asDemonstration, { messages: 'x' }, /"messages" is a text, expected a list of messages/);
  refuses(asDemonstration, chat(), /"messages" is empty/);
  refuses(asDemonstration, chat(user), /unbalanced: the last message has role user, expected assistant/);
  refuses(asDemonstration, chat(assistant), /unbalanced: message 1 has role assistant, expected user/);
  refuses(asDemonstration, chat(system, assistant), /unbalanced: message 2/);
  refuses(asDemonstration, chat(user, user, assistant), /unbalanced: message 2 has role user, expected assistant/);
  refuses(asDemonstration, chat(user, system, assistant), /unbalanced: message 2 has role system/);
  refuses(asDemonstration, chat(system), /unbalanced: the last message/);
  refuses(asDemonstration, chat('Hi'), /"messages\[0\]" is a text/);
  refuses(asDemonstration, chat(null), /"messages\[0\]" is null/);
  refuses(asDemonstration, chat({ role: 'tool', content: 'x' }), /"messages\[0\]\.role" is "tool"/);
  refuses(asDemonstration, chat({ role: 'user' }), /"messages\[0\]\.content" is missing/);
  refuses(asDemonstration, chat({ role: 'user', content: [] }), /"messages\[0\]\.content" is a list, expected a text/);
});

test('prompts', () => {
  assert.is(asPrompt({ prompt: '' }), '');
  assert.equal(asPrompt({ messages: [system, user, assistant, user] }), [system, user, assistant, user]);
  assert.equal(asPrompt({ prompt: [user] }), [user]);
  refuses(asPrompt, { text: 'a' }, /needs "prompt" or "messages"/);
  refuses(asPrompt, { prompt: null }, /"prompt" is null, expected a text or a list/);
  refuses(asPrompt, { messages: [user, assistant] }, /last message has role assistant, expected user/);
});

test('completions, one or several', () => {
  assert.equal(asCompletions({ prompt: 'p', completion: '' }), {
    prompt: 'p',
    completions: [''],
    finishReasons: ['stop'],
    single: true,
  });
  const several = { prompt: 'p', completions: ['a', 'b'], finish_reason: ['length', 'stop'] };
  assert.equal(asCompletions(several), {
    prompt: 'p',
    completions: ['a', 'b'],
    finishReasons: ['length', 'stop'],
    single: false,
  });
  assert.equal(asCompletions({ messages: [user], completion: 'x', finish_reason: 'length' }).finishReasons, ['length']);
  assert.equal(asCompletions({ prompt: [user], completion: [assistant] }).completions, ['Hello']);
  refuses(asCompletions, { prompt: 'p' }, /needs "completion" or "completions"/);
  refuses(asCompletions, { prompt: 'p', completions: 'a' }, /"completions" is a text, expected a list of texts/);
  refuses(asCompletions, { prompt: 'p', completions: [] }, /"completions" is empty/);
  refuses(asCompletions, { prompt: 'p', completions: [{ text: 'a' }] }, /"completions\[0\]" is an object, expected a/);
  refuses(asCompletions, { prompt: 'p', completion: { text: 'a' } }, /"completion" is an object, expected a text/);
  refuses(asCompletions, { prompt: 'p', completion: [user] }, /one message, of the assistant/);
  refuses(asCompletions, { prompt: 'p', completion: 'a', finish_reason: 'eos' }, /"finish_reason" is "eos"/);
  refuses(asCompletions, { ...several, finish_reason: ['stop'] }, /has 1 entries, "completions" has 2/);
  refuses(asCompletions, { ...several, finish_reason: 'stop' }, /"finish_reason" is a text, expected a list/);
  refuses(asCompletions, { ...several, finish_reason: ['stop', 1] }, /"finish_reason\[1\]" is a number/);
});

test('rankings from ranks, and from chosen and rejected', () => {
  const row = { prompt: 'p', completions: ['a', 'b', 'c'], ranks: [2, 1.5, 2] };
  assert.equal(asRanking(row), { ...row, finishReasons: ['stop', 'stop', 'stop'] });
  assert.equal(asRanking({ ...row, finish_reason: ['stop', 'length', null] }), { ...row, finishReasons: ['stop', 'length', 'stop'] });
  assert.equal(asRanking({ prompt: 'p', chosen: 'good', rejected: 'bad', margin: 0.5 }), {
    prompt: 'p',
    completions: ['good', 'bad'],
    finishReasons: ['stop', 'stop'],
    ranks: [1, 2],
    margin: 0.5,
  });
  assert.equal(asRanking({ prompt: [user], chosen: [assistant], rejected: [{ role: 'assistant', content: '' }] }), {
    prompt: [user],
    completions: ['Hello', ''],
    finishReasons: ['stop', 'stop'],
    ranks: [1, 2],
  });
  refuses(asRanking, { prompt: 'p' }, /needs "completions" and "ranks", or "chosen" and "rejected"/);
  refuses(asRanking, { completions: ['a', 'b'], ranks: [1, 2] }, /needs "prompt"/);
  refuses(asRanking, { prompt: 'p', completions: ['a', 'b'] }, /"ranks" is missing/);
  refuses(asRanking, { prompt: 'p', ranks: [1] }, /"completions" is missing/);
  refuses(asRanking, { prompt: 'p', completions: ['a'], ranks: [1] }, /has 1, a ranking needs two or more/);
  refuses(asRanking, { ...row, ranks: [1, 2] }, /"ranks" has 2 entries, "completions" has 3/);
  refuses(asRanking, { ...row, finish_reason: ['stop'] }, /"finish_reason" has 1 entries, "completions" has 3/);
  refuses(asRanking, { ...row, ranks: [1, 2, '3'] }, /"ranks\[2\]" is a text, expected a number/);
  refuses(asRanking, { ...row, ranks: [1, 2, null] }, /"ranks\[2\]" is null/);
  refuses(asRanking, { ...row, ranks: JSON.parse('[1,1e999,2]') }, /"ranks\[1\]" is not finite/);
  refuses(asRanking, { prompt: 'p', chosen: 'a' }, /"rejected" is missing/);
  refuses(asRanking, { prompt: 'p', chosen: 'a', rejected: 'b', margin: 'x' }, /"margin" is a text/);
});

test('texts', () => {
  assert.is(asText({ text: '' }), '');
  refuses(asText, { text: ['a'] }, /"text" is a list, expected a text/);
});

/** Any JSON gives a row or a RowError with one line. RLHF_FUZZ_CASES sets the number. */
test('fuzz: valid rows with fields replaced', () => {
  let state = 3;
  const random = (n: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
  const names = [
    'prompt', 'completion', 'messages', 'completions', 'ranks', 'chosen', 'rejected', 'margin', 'finish_reason',
    'instruction', 'input', 'output', 'text', '__proto__',
  ];
  const values = [
    'x', '', 1, 1e999, -0, null, true, [], {}, ['a', 'b'], [1, 2], [user], [user, assistant], [system, user],
    [assistant], ['stop', 'length'], 'stop', [[user]], [{ role: {}, content: 1 }], '\udfff\n', [null, null],
  ];
  const valid = [
    { text: 'x' }, { prompt: 'p', completion: 'c' }, { messages: [user, assistant] }, { messages: [user] },
    { prompt: 'p', completions: ['a', 'b'], ranks: [1, 2] }, { prompt: [user], chosen: 'a', rejected: 'b', margin: 1 },
  ];
  const readers: Reader[] = [asText, asPrompt, asDemonstration, asCompletions, asRanking];
  const read = new Set<number>();
  for (let i = 0; i < Number(process.env.RLHF_FUZZ_CASES ?? 600); i++) {
    const row: Record<string, unknown> = { ...valid[random(valid.length)] };
    for (let change = random(3); change > 0; change--) row[names[random(names.length)]] = values[random(values.length)];
    readers.forEach((reader, r) => {
      try {
        reader(row);
        read.add(r);
      } catch (error) {
        if (!(error instanceof RowError)) throw error;
        assert.not.match(error.message, /\n/);
      }
    });
  }
  assert.is(read.size, readers.length);
});

test.run();
