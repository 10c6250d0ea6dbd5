// The gold metric: single verdicts, the values known for the human demonstrations, and its forms as a program.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const root = process.env.RLHF_ROOT ?? '.';
const { compare, judge, normalise, parseMeaning, summarise } = await import(join(root, 'scripts/slot-error.mjs'));
const script = join(root, 'scripts/slot-error.mjs');
const demonstrations = (name: string): { prompt: string; completion: string }[] =>
  gunzipSync(readFileSync(join(root, 'datasets/restaurants', name))).toString().trim().split('\n')
    .map((line) => JSON.parse(line));
const near = (value: number, expected: number, tolerance: number, what: string) =>
  assert.ok(Math.abs(value - expected) <= tolerance, `${what}: ${value}, expected ${expected} ± ${tolerance}`);

test('text is brought to plain words', () => {
  assert.is(normalise('Café  Rouge’s city-center, “low_cost”'), 'cafe rouges city centre, “low cost”');
  assert.equal(parseMeaning('name[The Mill], customer rating[5 out of 5], near[Café Rouge]\n'),
    { name: 'The Mill', 'customer rating': '5 out of 5', near: 'Café Rouge' });
});

test('each kind of slot is found in the words people use', () => {
  const realised: [string, string][] = [
    ['eatType[coffee shop]', 'Two coffee shops.'],
    ['priceRange[cheap]', 'It has low, really low prices.'],
    ['priceRange[less than £20]', 'Expect to pay under twenty pounds.'],
    ['priceRange[more than £30]', 'Meals cost more than £30.'],
    ['priceRange[£20-25]', 'a price range of £20-25'],
    ['priceRange[high]', 'The price range is high.'],
    ['priceRange[moderate]', 'a mid-priced place'],
    ['customer rating[low]', 'rated 1 out of 5'],
    ['customer rating[1 out of 5]', 'It has a poor customer rating.'],
    ['customer rating[high]', 'a five star place'],
    ['customer rating[3 out of 5]', 'The customer rating is average.'],
    ['familyFriendly[no]', "It isn't child friendly."],
    ['familyFriendly[no]', 'for adults only'],
    ['familyFriendly[yes]', 'Kids are welcome.'],
    ['area[city centre]', 'in the city-center'],
    ['near[Café Rouge]', 'close to Cafe Rouge'],
  ];
  for (const [slot, text] of realised) {
    const verdict = judge(`name[The Mill], ${slot}`, `The Mill. ${text}`);
    assert.equal(verdict.missing, [], `${slot}: ${text}`);
    assert.equal(verdict.hallucinated, [], `${slot}: ${text}`);
    assert.ok(verdict.perfect);
  }
});

test('what is left out or distorted is missing', () => {
  const absent: [string, string][] = [
    ['priceRange[high]', 'The price range is low.'],
    ['customer rating[low]', 'It has a price that is low. Ratings differ.'],
    ['familyFriendly[yes]', 'It is not family-friendly.'],
    ['familyFriendly[no]', 'It is family-friendly.'],
    ['area[riverside]', 'in the city centre'],
    ['near[The Rice Boat]', 'near a rice paddy'],
  ];
  for (const [slot, text] of absent) {
    const verdict = judge(`name[The Mill], ${slot}`, `The Mill. ${text}`);
    assert.equal(verdict.missing, [slot.split('[')[0]], `${slot}: ${text}`);
    assert.is(verdict.slot_error, 0.5);
  }
});

test('what the prompt does not say is hallucinated', () => {
  const prompt = 'name[The Mill], near[Raja Indian Cuisine]';
  const of = (text: string) => judge(prompt, text).hallucinated;
  assert.equal(of('The Mill is a restaurant near Raja Indian Cuisine.'), []);
  assert.equal(of('The Mill near Raja Indian Cuisine serves Indian food.'), ['food: indian']);
  assert.equal(of('The Mill, a cheap pub near Raja Indian Cuisine and Burger King.'),
    ['Burger King', 'eatType: pub', 'priceRange']);
  assert.equal(of('The Mill near Raja Indian Cuisine has a high rating and welcomes families.'),
    ['customer rating', 'familyFriendly']);
  assert.equal(of('The Mill near Raja Indian Cuisine is child-friendly.'), ['familyFriendly']);
});

test('human demonstrations have the known rates', () => {
  // Missing, hallucinated a text, perfect: what an independent implementation of the same rules counts.
  for (const [name, texts, prompts, missing, hallucinated, perfect] of [
    ['demonstrations.jsonl.gz', 6000, 3413, 0.109, 0.044, 0.64],
    ['dev-references.jsonl.gz', 4672, 547, 0.092, 0.034, 0.658],
  ] as const) {
    const summary = summarise(demonstrations(name), { resamples: 100 });
    assert.is(summary.texts, texts);
    assert.is(summary.prompts, prompts);
    near(summary.slot_error.mean, missing, 0.01, `${name} missing`);
    near(summary.hallucinated_per_text.mean, hallucinated, 0.01, `${name} hallucinated`);
    near(summary.perfect.mean, perfect, 0.01, `${name} perfect`);
    near(summary.total_error.mean, summary.slot_error.mean + summary.hallucinated_per_slot.mean, 1e-12, 'sum');
    for (const { mean, low, high } of [summary.slot_error, summary.perfect]) assert.ok(low < mean && mean < high);
  }
});

test('pairing cancels what two files have in common', () => {
  const rows = demonstrations('dev-references.jsonl.gz').slice(0, 400);
  const same = compare(rows, rows);
  assert.equal([same.slot_error.mean, same.slot_error.low, same.slot_error.high], [0, 0, 0]);
  const cut = rows.map((row) => ({ ...row, completion: row.completion.split(' ').slice(0, 6).join(' ') }));
  const worse = compare(rows, cut);
  assert.ok(worse.slot_error.low > 0.2, 'cutting texts loses slots');
  near(worse.slot_error.mean, summarise(cut).slot_error.mean - summarise(rows).slot_error.mean, 1e-12, 'difference');
  assert.equal(compare(rows, cut, { seed: 1 }), compare(rows, cut, { seed: 1 }), 'a seed fixes the interval');
  assert.throws(() => compare(rows, rows.slice(0, 9)), /different prompts/);
});

test('as a program: rows pass through with a verdict or a reward', () => {
  const rows = [
    { prompt: 'name[The Mill], food[English]\n', completion: 'The Mill.', id: 7 },
    { prompt: 'name[The Mill], food[English]\n', completions: ['The Mill serves English food.', 'Food.'] },
  ];
  const input = rows.map((row) => JSON.stringify(row)).join('\n');
  const run = (...options: string[]) => {
    const { stdout, status } = spawnSync(process.execPath, [script, ...options], { input, encoding: 'utf8' });
    assert.is(status, 0);
    return stdout.trim().split('\n').map((line) => JSON.parse(line));
  };
  const [first, second] = run();
  assert.is(first.id, 7);
  assert.equal(first.missing, ['food']);
  assert.is(first.slot_error, 0.5);
  assert.equal(second.verdicts.map((each: { slot_error: number }) => each.slot_error), [0, 1]);
  const scored = run('--as-reward');
  assert.is(scored[0].reward, -0.5);
  assert.equal(scored[1].rewards, [0, -1]);
  assert.is(run('--summary')[0].slot_error.mean, 3 / 6);
});

test('as a program: a bad row is named', () => {
  const input = '{"prompt":"name[x]","completion":"x"}\n{"prompt":3}\n';
  const { status, stderr } = spawnSync(process.execPath, [script], { input, encoding: 'utf8' });
  assert.is(status, 2);
  assert.match(stderr, /^slot-error: -:2: a row needs/);
});

test.run();
