import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { philox, uniform24 } from '../../src/gpu/ops/random.ts';
import { readFloats } from '../../src/gpu/tensor.ts';
import { packRows, type PackRow } from '../../src/model/batch.ts';
import { generate } from '../../src/model/generate.ts';
import type { Request, Response } from '../../src/model/generator.ts';
import { loadModel, type Model } from '../../src/model/load.ts';
import { Passes } from '../../src/model/passes.ts';
import { MODELS } from '../files/temporary.ts';
import { assertClose, closeAfterTests, openForTests, seeded } from '../gpu/device.ts';
import { inverseCdf } from '../../src/self_test/reference/sampler.ts';

test.before(openForTests);
test.after(closeAfterTests);

const FAMILIES = ['gpt2-tiny', 'llama-tiny', 'qwen2-tiny'];
const load = (name: string): Model => loadModel(join(MODELS, name), { kind: 'lm' });

/** Rows of these lengths with every token picked but the last, each for the token after it. */
function rowsOf(model: Model, lengths: number[], seed: number): PackRow[] {
  const { below } = seeded(seed);
  return lengths.map((length) => {
    const ids = Int32Array.from({ length }, () => below(model.config.vocabSize));
    const at = Array.from({ length: length - 1 }, (_, t) => t);
    return { ids, at, targets: at.map((t) => ids[t + 1]) };
  });
}

/** Log-probability, entropy, correctness and log-sum-exp of every pick, row by row, from one packed pass. */
async function statsOf(passes: Passes, model: Model, rows: PackRow[]): Promise<Float32Array[]> {
  const batch = packRows(rows, model.config);
  const all = await readFloats((await passes.run(batch)).stats);
  return rows.map((row, r) => all.slice(4 * batch.firstPick[r], 4 * (batch.firstPick[r] + row.at.length)));
}

test('a row’s log-probabilities are the same bits alone, in any company, at any place of a batch', async () => {
  for (const name of FAMILIES) {
    const model = load(name);
    const passes = new Passes(model.decoder);
    const rows = rowsOf(model, [2, 3, 17, 31, 32, 33, 63, 64], 3);
    const others = rowsOf(model, [64, 1, 5, 40, 64, 7, 64, 64, 64, 64, 64, 64], 4);
    const alone: Float32Array[] = [];
    for (const row of rows) alone.push((await statsOf(passes, model, [row]))[0]);
    const arrangements = {
      together: rows,
      reversed: [...rows].reverse(),
      between: rows.flatMap((row, i) => [others[i], row]),
      last: [...others, ...rows],
    };
    for (const [arrangement, batch] of Object.entries(arrangements)) {
      const found = await statsOf(passes, model, batch);
      rows.forEach((row, r) =>
        assert.equal(found[batch.indexOf(row)], alone[r], `${name}: ${arrangement}, row of ${row.ids.length}`),
      );
    }
  }
});

test('a row’s log-probabilities up to a place do not depend on what follows (1e-6)', async () => {
  for (const name of FAMILIES) {
    const model = load(name);
    const passes = new Passes(model.decoder);
    const [row] = rowsOf(model, [64], 5);
    const [whole] = await statsOf(passes, model, [row]);
    for (const length of [2, 9, 32, 33, 50]) {
      const at = Array.from({ length: length - 1 }, (_, t) => t);
      const [cut] = await statsOf(passes, model, [
        { ids: Array.from(row.ids).slice(0, length), at, targets: at.map((t) => row.ids[t + 1]) },
      ]);
      assertClose(cut, whole.slice(0, cut.length), `${name}: cut to ${length}`, 1e-6);
    }
  }
});

/** The distribution after each place of a row, by the full forward pass: every token of the vocabulary is a target. */
async function distributions(passes: Passes, model: Model, ids: number[], places: number[]): Promise<number[][]> {
  const { vocabSize } = model.config;
  const at = places.flatMap((t) => new Array<number>(vocabSize).fill(t));
  const targets = places.flatMap(() => Array.from({ length: vocabSize }, (_, v) => v));
  const [stats] = await statsOf(passes, model, [{ ids, at, targets }]);
  return places.map((_, p) => Array.from({ length: vocabSize }, (_, v) => Math.exp(stats[4 * (p * vocabSize + v)])));
}

/**
 * The draw of each token is known: the inverse of the cumulative distribution at a number that the seed, the row, the
 * sample and the token's place name. So the cache's distribution and the full forward's agree to 2e-4 wherever they draw
 * the same token.
 */
async function assertDrawnFromFullForward(
  model: Model,
  name: string,
  answers: Response[],
  seed: number,
  places: (count: number) => number[],
): Promise<void> {
  const passes = new Passes(model.decoder);
  let checked = 0;
  for (const { request, ids } of answers) {
    const prompt = Array.from(request.prompt);
    const chosen = places(ids.length);
    const found = await distributions(
      passes,
      model,
      [...prompt, ...ids],
      chosen.map((i) => prompt.length + i - 1),
    );
    chosen.forEach((i, p) => {
      const u = uniform24(philox([request.row, 0, request.sample, i], [seed, 0])[0]);
      const [low, high] = [inverseCdf(found[p], u - 2e-4), inverseCdf(found[p], u + 2e-4)];
      assert.ok(
        ids[i] >= low && ids[i] <= high,
        `${name}: row ${request.row}, token ${i} is ${ids[i]}, the full forward gives ${low}…${high}`,
      );
      checked++;
    });
  }
  assert.ok(checked > 100);
}

const collect = async (answers: AsyncGenerator<Response>): Promise<Response[]> => {
  const all: Response[] = [];
  for await (const answer of answers) all.push(answer);
  return all.sort((a, b) => a.request.row - b.request.row || a.request.sample - b.request.sample);
};

test('tokens decoded with the cache are what the full forward and their random number give', async () => {
  for (const name of FAMILIES) {
    const model = load(name);
    const requests: Request[] = [1, 2, 7, 15, 16, 17, 31, 32, 33, 48].map((length, row) => {
      const { below } = seeded(row);
      return {
        prompt: Array.from({ length }, () => below(model.config.vocabSize)),
        row,
        sample: row % 2,
        maxNewTokens: 64 - length,
      };
    });
    const settings = { temperature: 1, topK: 0, topP: 1, seed: 11, iteration: 0 };
    const answers = await collect(generate(model.decoder, requests, settings, { slots: 4, ends: [] }));
    await assertDrawnFromFullForward(model, name, answers, settings.seed, (count) =>
      Array.from({ length: count }, (_, i) => i),
    );
    const others = await collect(generate(model.decoder, [...requests].reverse(), settings, { slots: 1, ends: [] }));
    assert.equal(
      others.map(({ ids }) => ids),
      answers.map(({ ids }) => ids),
      `${name}: one slot, the other order`,
    );
  }
});

test('so do those of a real model far beyond the borders of attention’s and the cache’s blocks', async () => {
  const model = load('stories260K');
  const requests: Request[] = [5, 60, 120].map((length, row) => {
    const { below } = seeded(row);
    return {
      prompt: [1, ...Array.from({ length: length - 1 }, () => 3 + below(500))],
      row,
      sample: 0,
      maxNewTokens: 145 - row * 10,
    };
  });
  const settings = { temperature: 1, topK: 0, topP: 1, seed: 5, iteration: 0 };
  const answers = await collect(generate(model.decoder, requests, settings, { slots: 3, ends: [] }));
  // Around every multiple of 16, and some in between.
  await assertDrawnFromFullForward(model, 'stories260K', answers, settings.seed, (count) =>
    Array.from({ length: count }, (_, i) => i).filter((i) => [0, 1, 15].includes(i % 16) || i % 11 === 0),
  );
});

test('greedy decoding with the cache takes the full forward’s most likely token', async () => {
  for (const name of FAMILIES) {
    const model = load(name);
    const { below } = seeded(8);
    const requests: Request[] = [1, 8, 30].map((length, row) => ({
      prompt: Array.from({ length }, () => below(model.config.vocabSize)),
      row,
      sample: 0,
      maxNewTokens: 30,
    }));
    const answers = await collect(
      generate(
        model.decoder,
        requests,
        { temperature: 0, topK: 0, topP: 1, seed: 0, iteration: 0 },
        { slots: 3, ends: [] },
      ),
    );
    for (const { request, ids } of answers) {
      const prompt = Array.from(request.prompt);
      const found = await distributions(
        new Passes(model.decoder),
        model,
        [...prompt, ...ids],
        ids.map((_, i) => prompt.length + i - 1),
      );
      ids.forEach((id, i) => {
        const best = Math.max(...found[i]);
        assert.ok(
          found[i][id] >= best * (1 - 4e-4),
          `${name}: token ${i} has ${found[i][id]}, the most likely ${best}`,
        );
      });
    }
  }
});

test.run();
