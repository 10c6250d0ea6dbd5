// The bundled data has the promised form, and the script that makes it does what NOTICE.md says.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const root = process.env.RLHF_ROOT ?? '.';
const script = join(root, 'scripts/make-datasets.mjs');
const { articlesOf, instructionOf, interleave, passagesOf, rankingOf, ranksOf, take } = await import(script);
const read = (name: string) => {
  const bytes = readFileSync(join(root, 'datasets', name));
  const text = (name.endsWith('.gz') ? gunzipSync(bytes) : bytes).toString();
  return text.trim().split('\n').map((line) => JSON.parse(line));
};
const promptsOf = (rows: { prompt: string }[]) => new Set(rows.map(({ prompt }) => prompt));
const disjoint = (a: Set<string>, b: Set<string>) => [...a].every((each) => !b.has(each));

test('demonstrations and prompts', () => {
  const demonstrations = promptsOf(read('restaurants/demonstrations.jsonl.gz'));
  const training = read('restaurants/prompts.jsonl');
  const development = read('restaurants/dev-prompts.jsonl');
  assert.is(training.length, 3413);
  assert.equal(promptsOf(training), demonstrations);
  assert.is(development.length, 547);
  assert.equal(promptsOf(development), promptsOf(read('restaurants/dev-references.jsonl.gz')));
  assert.ok(disjoint(demonstrations, promptsOf(development)), 'no dev prompt is trained on');
  for (const { prompt } of [...training, ...development]) assert.match(prompt, /^name\[[^\n]+\]\n$/);
});

test('rankings order the scores, and the held-out prompts are others', () => {
  const training = read('restaurants/rankings.jsonl');
  const heldOut = read('restaurants/rankings-held-out.jsonl');
  assert.is(training.length, 450);
  assert.is(heldOut.length, 50);
  assert.ok(disjoint(promptsOf(training), promptsOf(heldOut)));
  assert.ok(disjoint(promptsOf(training), promptsOf(read('restaurants/dev-prompts.jsonl'))));
  let ties = 0;
  for (const { prompt, completions, ranks, scores } of [...training, ...heldOut]) {
    assert.ok(completions.length >= 5 && completions.length <= 14, prompt);
    assert.is(ranks.length, completions.length);
    for (let i = 0; i < ranks.length; i++) {
      for (let j = 0; j < i; j++) {
        assert.is(Math.sign(ranks[i] - ranks[j]), Math.sign(scores[j] - scores[i]), prompt);
        ties += Number(ranks[i] === ranks[j]);
      }
    }
  }
  assert.ok(ties > 1000, 'ties are kept');
});

test('prose: held-out passages are not trained on', () => {
  const texts = (name: string): string[] => read(name).map(({ text }: { text: string }) => text);
  const training = texts('prose/train.jsonl.gz');
  const heldOut = texts('prose/held-out.jsonl.gz');
  assert.ok(disjoint(new Set(training), new Set(heldOut)));
  const characters = training.join('').length;
  assert.ok(characters > 840_000 && characters < 900_000, String(characters));
});

test('instructions are one short question each; held-out ones are others', () => {
  const asked = (name: string): string[] => read(name).map(({ messages }: { messages: { role: string; content: string }[] }) => {
    assert.equal(messages.map(({ role }) => role), ['system', 'user']);
    assert.is(messages[0].content, 'Answer in one short sentence.');
    return messages[1].content;
  });
  const training = asked('instructions/prompts.jsonl');
  const heldOut = asked('instructions/held-out-prompts.jsonl');
  assert.equal([training.length, heldOut.length], [250, 48]);
  assert.is(new Set([...training, ...heldOut]).size, 298);
  for (const text of [...training, ...heldOut]) assert.ok(text.length >= 10 && text.length <= 240, text);
});

test('a task is an instruction and its first input; classification and long ones are left out', () => {
  const task = { id: 'x', instruction: 'Sort the list. ', instances: [{ input: '3, 1' }, { input: '2' }], is_classification: false };
  assert.equal(instructionOf(task).messages, [
    { role: 'system', content: 'Answer in one short sentence.' },
    { role: 'user', content: 'Sort the list.\n\n3, 1' },
  ]);
  assert.is(instructionOf({ ...task, instances: [{ input: '' }] }).messages[1].content, 'Sort the list.');
  assert.is(instructionOf({ ...task, is_classification: true }), undefined);
  assert.is(instructionOf({ ...task, instances: [{ input: 'x'.repeat(240) }] }), undefined);
  assert.is(instructionOf({ ...task, id: 'seed_task_120' }), undefined);
});

test('scores become ranks, equal scores a tie', () => {
  assert.equal(ranksOf([0.4, 0.1, 0.4, -1]), [1, 2, 1, 3]);
  const row = rankingOf({ prompt: 'p', completions: [
    { text: 'a', quality_rel: 0 }, { text: 'unjudged', quality_rel: null }, { text: 'b', quality_rel: 0.5 }] });
  assert.equal(row, { prompt: 'p\n', completions: ['a', 'b'], ranks: [2, 1], scores: [0, 0.5] });
});

test('texts are cut at articles and blank lines', () => {
  const articles = articlesOf(' \n = One = \n \n a \n = = Part = = \n b \n = Two = \n c \n');
  assert.equal(articles, ['= One = \n \n a \n = = Part = = \n b', '= Two = \n c']);
  assert.equal(passagesOf('aaa\n\nbbb\n\nccc\n', 5), ['aaa\n\nbbb', 'ccc']);
  assert.equal(take(['aa', 'bb', 'cc'], 3), [['aa', 'bb'], ['cc']]);
  assert.equal(interleave([1, 2, 3, 4], ['a', 'b']), [1, 'a', 2, 3, 'b', 4]);
});

test.run();
