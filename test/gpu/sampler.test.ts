import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { philox, uniform24 } from '../../src/gpu/ops/random.ts';
import { type Lanes, wideLanes } from '../../src/gpu/ops/reduction.ts';
import { sample, type SamplerSettings, samplerSettings } from '../../src/gpu/ops/sampler.ts';
import { record } from '../../src/gpu/program.ts';
import { download, vector } from '../../src/gpu/tensor.ts';
import { filtered, inverseCdf, logSoftmax } from '../../src/self_test/reference/sampler.ts';
import { assertClose, closeAfterTests, column, fixture, lanesToTest, matrix, openForTests, seeded } from './device.ts';

interface Batch {
  settings: SamplerSettings;
  rows: number[][];
  expected: number[][];
}

test.before(openForTests);
test.after(closeAfterTests);

const plain: SamplerSettings = { temperature: 1, topK: 0, topP: 1, seed: 7, iteration: 0 };
const keyOf = (row: number, position = 3): number[] => [row, 0, position, 0];

async function draw(
  logits: ArrayLike<number>[],
  settings: Partial<SamplerSettings>,
  keys = logits.map((_, i) => keyOf(i)),
  lanes: Lanes = wideLanes(),
) {
  const S = logits.length;
  const flat = Float32Array.from(logits.flatMap((row) => Array.from(row)));
  const io = {
    logits: matrix(flat, logits[0].length),
    keys: matrix(keys.flat(), 4, 'u32'),
    settings: column(samplerSettings({ ...plain, ...settings }), 'u32'),
    tokens: vector(S),
    logprobs: vector(S),
  };
  const program = await record(() => sample(io, lanes)).ready();
  program.run();
  const [tokens, logprobs] = await download(io.tokens, io.logprobs);
  return { tokens: [...new Uint32Array(tokens)], logprobs: [...new Float32Array(logprobs)] };
}

/** The same logits for many rows, whose keys differ. */
const repeated = (row: ArrayLike<number>, times: number): ArrayLike<number>[] =>
  new Array<ArrayLike<number>>(times).fill(row);

/** Asserts that a draw is what the reference's cumulative sum gives at this key's random number, to rounding. */
function assertDrawn(
  token: number,
  probabilities: number[],
  key: number[],
  settings: SamplerSettings,
  message: string,
): void {
  const u = uniform24(philox(key, [settings.seed, settings.iteration])[0]);
  const slack = 2e-6; // cumulative sums of float32 numbers
  const [low, high] = [inverseCdf(probabilities, u - slack), inverseCdf(probabilities, u + slack)];
  assert.ok(
    token >= low && token <= high && probabilities[token] > 0,
    `${message}: drew ${token}, expected ${low}…${high} at ${u}`,
  );
}

test('golden vectors: temperature, top-k and top-p keep what transformers keeps, with its probabilities', async () => {
  for (const model of ['gpt2', 'llama', 'qwen2']) {
    const vectors = fixture(`models/${model}-tiny/oracle/vectors.json`);
    const batched = new Map<string, Batch>();
    for (const c of vectors.sampling) {
      const row: number[] = vectors.logits[c.row][c.position];
      const settings = { ...plain, temperature: c.temperature, topK: c.top_k ?? 0, topP: c.top_p ?? 1 };
      const expected = new Array<number>(row.length).fill(0);
      c.kept_ids.forEach((id: number, i: number) => (expected[id] = c.probs_of_kept[i]));
      assertClose(filtered(row, settings.temperature, settings.topK, settings.topP), expected, 'the reference', 1e-6);
      const key = JSON.stringify(settings);
      const batch: Batch = batched.get(key) ?? { settings, rows: [], expected: [] };
      batch.rows.push(row);
      batch.expected.push(expected);
      batched.set(key, batch);
    }
    for (const { settings, rows, expected } of batched.values()) {
      const times = 150;
      const got = await draw(
        rows.flatMap((row) => repeated(row, times)),
        settings,
      );
      got.tokens.forEach((token, i) => {
        const own = Math.floor(i / times);
        assertDrawn(token, expected[own], keyOf(i), settings, `${model} ${JSON.stringify(settings)}`);
        assertClose(
          [got.logprobs[i]],
          [logSoftmax(rows[own], settings.temperature)[token]],
          'log-probability',
          1e-5,
          1e-5,
        );
      });
    }
  }
});

test('equals the reference for every vocabulary size, each way to reduce, filters mixed', async () => {
  const random = seeded(21);
  const mixes = [
    {},
    { temperature: 0.5 },
    { topK: 5 },
    { topP: 0.8 },
    { temperature: 1.3, topK: 40, topP: 0.9 },
    { topP: 1e-9 },
    { topK: 1 },
  ];
  for (const V of [1, 2, 7, 8, 9, 63, 65, 97, 1000, 5003]) {
    const rows = Array.from({ length: 9 }, (_, i) => random.normals(V, i === 0 ? 0.01 : i));
    rows[3].fill(-Infinity, 0, Math.floor(V / 2)); // never drawn
    rows[4] = rows[4].map((x) => Math.round(x)); // many ties, −0 and 0 among them
    for (const mix of mixes) {
      const settings = { ...plain, ...mix };
      const f = { temperature: Math.fround(settings.temperature), topP: Math.fround(settings.topP) };
      for (const lanes of lanesToTest()) {
        const got = await draw(rows, mix, undefined, lanes);
        rows.forEach((row, i) => {
          const expected = filtered(row, f.temperature, settings.topK, f.topP);
          assertDrawn(got.tokens[i], expected, keyOf(i), settings, `V ${V}, row ${i}, ${JSON.stringify(mix)}`);
          assertClose(
            [got.logprobs[i]],
            [logSoftmax(row, f.temperature)[got.tokens[i]]],
            'log-probability',
            1e-5,
            1e-5,
          );
        });
      }
    }
  }
});

test('frequencies follow the softmax in every row, the first included (chi-square)', async () => {
  const random = seeded(22);
  const [rows, V, rounds] = [4, 11, 500];
  const logits = Array.from({ length: rows }, () => random.normals(V, 1.2));
  const counts = logits.map(() => new Array<number>(V).fill(0));
  const keys: number[][] = [];
  for (let round = 0; round < rounds; round++) for (let r = 0; r < rows; r++) keys.push(keyOf(r, round));
  const got = await draw(
    keys.map(([r]) => logits[r]),
    { seed: 1 },
    keys,
  );
  got.tokens.forEach((token, i) => counts[i % rows][token]++);
  for (let r = 0; r < rows; r++) {
    const expected = filtered(logits[r], 1, 0, 1).map((x) => x * rounds);
    const chi2 = counts[r].reduce((sum, c, i) => sum + (c - expected[i]) ** 2 / expected[i], 0);
    assert.ok(
      chi2 < 29.6,
      `row ${r}: chi-square ${chi2.toFixed(1)} with 10 degrees of freedom (29.6 is exceeded once in 1,000)`,
    );
  }
  assert.ok(new Set(counts.map(String)).size === rows, 'rows draw apart');
});

test('greedy takes the largest logit, the lowest id among equals', async () => {
  const rows = [
    [0, 3, 3, 1, 3],
    [-5, -Infinity, -5, -9, -7],
    [-0, 0, -1, -1, -1],
    [1, 2, 3, 4, 5],
    [7, 7, 7, 7, 7],
  ];
  for (const lanes of lanesToTest()) {
    const got = await draw(rows, { temperature: 0, topK: 3, topP: 0.5 }, undefined, lanes);
    assert.equal(got.tokens, [1, 0, 0, 4, 0]);
    assertClose(
      got.logprobs,
      rows.map((r, i) => logSoftmax(r, 1)[got.tokens[i]]),
      'log-probabilities',
      1e-6,
    );
  }
  const big = seeded(23).normals(5003);
  big[4001] = 9;
  big[4999] = 9;
  assert.equal((await draw([big], { temperature: 0 })).tokens, [4001]);
});

test('top-k keeps every tie of the k-th, and nothing else', async () => {
  const row = [1, 2, 2, 0, 2, 3, -1];
  const got = await draw(repeated(row, 400), { topK: 2 });
  assert.equal([...new Set(got.tokens)].sort(), [1, 2, 4, 5]);
  const zeros = await draw(repeated([-0, 0, -1, -2, -3], 60), { topK: 1 });
  assert.equal([...new Set(zeros.tokens)].sort(), [0, 1], '−0 and 0 are a tie');
});

test('a row’s token depends on its logits and key alone; seed, iteration and each word of the key change it', async () => {
  const random = seeded(24);
  const rows = Array.from({ length: 40 }, () => random.normals(500));
  const keys = rows.map((_, i) => keyOf(i * 3 + 1));
  const whole = await draw(rows, {}, keys);
  for (const i of [0, 7, 39]) {
    const alone = await draw([rows[i]], {}, [keys[i]]);
    assert.equal([alone.tokens[0], alone.logprobs[0]], [whole.tokens[i], whole.logprobs[i]]);
  }
  const same = (other: number[]): number => other.filter((t, i) => t === whole.tokens[i]).length;
  assert.is(same((await draw(rows, {}, keys)).tokens), 40, 'repeats');
  assert.ok(same((await draw(rows, { seed: 8 }, keys)).tokens) < 8);
  assert.ok(same((await draw(rows, { iteration: 1 }, keys)).tokens) < 8);
  for (const word of [0, 1, 2]) {
    const other = keys.map((key) => key.map((k, i) => (i === word ? k + 1 : k)));
    assert.ok(same((await draw(rows, {}, other)).tokens) < 8, `word ${word} of the key`);
  }
});

test('a real vocabulary: 151,936 tokens, mass at both ends, none where there is none', async () => {
  const V = 151_936;
  const row = new Float32Array(V).fill(-Infinity);
  row[0] = 0;
  row[V - 1] = 0;
  const got = await draw(repeated(row, 24), {});
  assert.equal(
    [...new Set(got.tokens)].sort((a, b) => a - b),
    [0, V - 1],
  );
  assertClose(got.logprobs, new Array(24).fill(-Math.LN2), 'log-probability', 1e-6);
  const normal = seeded(25).normals(V, 3);
  const settings = { ...plain, topK: 50, topP: 0.95 };
  const expected = filtered(normal, 1, 50, Math.fround(0.95));
  const some = await draw(repeated(normal, 4), settings);
  some.tokens.forEach((token, i) => assertDrawn(token, expected, keyOf(i), settings, `row ${i}`));
});

test('logits of 1e30 and nothing but −∞ give an id of the vocabulary; NaN and +∞ give none', async () => {
  const rows = [
    [1e30, -1e30, 0],
    [-Infinity, -Infinity, -Infinity],
    [NaN, NaN, NaN],
    [1, 0, NaN],
    [Infinity, 0, 1],
    [0, 1, 2],
  ];
  for (const lanes of lanesToTest()) {
    for (const settings of [{ temperature: 0.5, topP: 0.9, topK: 2 }, { temperature: 0 }, {}]) {
      const { tokens } = await draw(rows, settings, undefined, lanes);
      assert.is(tokens[0], 0);
      assert.ok(tokens[1] < 3 && tokens[5] < 3, String(tokens));
      assert.equal(tokens.slice(2, 5), [0xffffffff, 0xffffffff, 0xffffffff]);
    }
  }
});

test.run();
