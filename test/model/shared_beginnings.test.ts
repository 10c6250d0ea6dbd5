// Rows that begin alike, such as K responses to a prompt, are computed from one copy of their beginning: with the same bits as alone.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { shapeOf, type PackRow } from '../../src/model/batch.ts';
import type { ModelConfig } from '../../src/model/config.ts';
import { newModel } from '../../src/model/load.ts';
import { shareBeginnings } from '../../src/model/shared_beginnings.ts';
import { LogprobReader, Scorer } from '../../src/stages/judge.ts';
import { microBatches, sharedBatches, tokensOf } from '../../src/train/micro_batches.ts';
import { closeAfterTests, onEachVariant, openForTests, seeded } from '../gpu/device.ts';

test.before(openForTests);
test.after(closeAfterTests);

const ids = (...parts: (number | number[])[]): Int32Array => Int32Array.from(parts.flat());
const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);
const atEnd = (row: Int32Array, key = 0): PackRow => ({ ids: row, at: [row.length - 1], key });
/** Rows as lists, what a row goes on from put back in front. */
function whole(rows: readonly PackRow[]): { ids: number[]; at: number[] }[] {
  const found: { ids: number[]; at: number[] }[] = [];
  let [begin, left] = [[] as number[], 0];
  for (const row of rows) {
    if (row.begins) [begin, left] = [Array.from(row.ids), row.begins];
    else {
      const before = left-- > 0 ? begin : [];
      found.push({ ids: [...before, ...Array.from(row.ids)], at: Array.from(row.at, (place) => before.length + place) });
    }
  }
  return found;
}

test('neighbours share what they begin with, but for what is picked from first, and rows without it stay as they are', () => {
  const prompt = range(10, 30);
  const rows = [ids(prompt, 1, 2), ids(prompt, 1, 3, 4), ids(prompt, 5), ids(7, 8, 9), ids(range(40, 60), 1), ids(range(40, 60), 1)].map((row) => atEnd(row));
  const shared = shareBeginnings(rows);
  assert.equal(shared.map(({ begins, ids: { length } }) => [begins, length]), [[3, 20], [undefined, 2], [undefined, 3], [undefined, 1], [undefined, 3], [2, 20], [undefined, 1], [undefined, 1]]);
  assert.equal(whole(shared), whole(rows));
  assert.is(tokensOf(shared), 20 + 6 + 3 + 22);
  // The first pick of a row stays its own; rows in parts share nothing.
  const picked = [ids(prompt, 1, 2), ids(prompt, 3)].map((row): PackRow => ({ ids: row, at: range(19, row.length - 1), targets: range(20, row.length) }));
  assert.equal(shareBeginnings(picked).map(({ begins, ids: { length }, at }) => [begins, length, Array.from(at)]), [[2, 19, []], [undefined, 3, [0, 1]], [undefined, 2, [0]]]);
  const parts = rows.slice(0, 2).map((row): PackRow => ({ ...row, segments: [[0, 5], [5, row.ids.length - 5]] }));
  assert.equal(shareBeginnings(parts), parts);
  // A longer common beginning of fewer rows is not given up for a short one of more.
  const nested = [ids(range(1, 6), range(50, 90), 1), ids(range(1, 6), range(50, 90), 2), ids(range(1, 6), 3), ids(range(1, 6), 4)].map((row) => atEnd(row));
  assert.equal(shareBeginnings(nested).filter(({ begins }) => begins).map(({ begins, ids: { length } }) => [begins, length]), [[2, 45], [2, 5]]);
});

test('passes hold whole rows within their budget, the beginning again in each', () => {
  const rows = range(0, 20).map((i) => atEnd(ids(range(100, 130), range(0, 10 + i))));
  const passes = [...sharedBatches(rows, 128)];
  for (const part of passes) assert.ok(tokensOf(part) <= 128, `${tokensOf(part)} tokens`);
  assert.ok(passes.length > 1 && passes.every((part) => part[0]!.begins));
  assert.equal(passes.flatMap(whole), whole(rows));
  assert.ok(passes.length < [...microBatches(rows, 128)].length);
  // A row that alone is longer than the budget goes alone.
  assert.equal([...sharedBatches([atEnd(ids(range(0, 300)))], 128)].map(tokensOf), [300]);
  assert.is(shapeOf(passes[0]!).tokens, 128);
});

for (const family of ['llama', 'gpt2'] as const) {
  const gpt2 = family === 'gpt2';
  const config: ModelConfig = {
    family, vocabSize: 200, width: 32, layers: 2, heads: 4, kvHeads: gpt2 ? 4 : 2, headDim: 8, hidden: 48, context: 160, norm: gpt2 ? 'layer' : 'rms', normEps: 1e-5,
    positions: gpt2 ? 'learned' : 'rope', ropeTheta: 10000, activation: gpt2 ? 'gelu_new' : 'silu', gated: !gpt2,
    bias: { qkv: gpt2, attnOut: gpt2, mlp: gpt2 }, tied: true, bosId: 0, eosId: 1, padId: 2, initializerRange: 0.2,
  };
  test(`${family}: rewards and log-probabilities of K responses are those of each alone, bit for bit`, () =>
    onEachVariant(async (variant) => {
      const random = seeded(5);
      const draw = (n: number): number[] => range(0, n).map(() => Math.floor(random.uniform() * 200));
      const prompts = [draw(1), draw(37), draw(70), draw(8)];
      const rows = prompts.flatMap((prompt, i) => range(0, 5).map((k) => ({ ids: ids(prompt, draw(1 + ((i * 7 + k * 11) % 60))), from: prompt.length })));
      const scorer = new Scorer(newModel(config, 3, false, 'reward'));
      const together = await scorer.scores(rows.map((row) => row.ids));
      const alone = [];
      for (const row of rows) alone.push(...await scorer.scores([row.ids]));
      assert.equal(together, alone, variant);
      assert.is(new Set(together).size, rows.length, 'rewards differ');
      assert.ok(scorer.passes.ran.tokens < 1.7 * rows.reduce((sum, row) => sum + row.ids.length, 0), 'fewer tokens were computed');
      const reader = new LogprobReader(newModel(config, 3, false));
      const read = await reader.logprobs(rows);
      for (const [i, row] of rows.entries()) assert.equal(read[i], (await reader.logprobs([row]))[0], `${variant}, row ${i}`);
    }));
}

test.run();
