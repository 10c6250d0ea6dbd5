// More rows than a grid has workgroups in one dimension (65,535): on GPUs, which hold much and take a workgroup a row where their subgroups
// have no fixed size, a pass may have them. The rows repeat, so that each of them has a twin among the first.
process.env.RLHF_GPU_FORMS = '1';

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { gpu } from '../../src/gpu/device.ts';
import { cacheCopy, layerCache } from '../../src/gpu/ops/decode.ts';
import { embedding } from '../../src/gpu/ops/embedding.ts';
import { norm } from '../../src/gpu/ops/norm.ts';
import { rankingLoss } from '../../src/gpu/ops/ranking_loss.ts';
import { scalarHead } from '../../src/gpu/ops/scalar_head.ts';
import { tokenLogprob } from '../../src/gpu/ops/token_logprob.ts';
import { Tape } from '../../src/gpu/tape.ts';
import { persistent, readFloats, type Tensor, upload, vector } from '../../src/gpu/tensor.ts';
import { closeAfterTests, column, compute, differentiate, matrix, openForTests, padded, parameter, seeded } from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

const ROWS = 66_000;
const PERIOD = 7;

/** PERIOD rows of `cols` random numbers, again and again. */
function repeated(cols: number, seed: number): Float32Array {
  const some = seeded(seed).normals(PERIOD * cols);
  return Float32Array.from({ length: ROWS * cols }, (_, i) => some[i % some.length]);
}

/** Fails where a row is not its twin among the first, or those are equal to each other, as if nothing had been stored. */
function assertRepeats(values: ArrayLike<number>, cols: number, what: string): void {
  assert.is(values.length, ROWS * cols);
  const wrong = Array.from(values).findIndex((x, i) => x !== values[i % (PERIOD * cols)]);
  assert.is(wrong, -1, `${what}: row ${Math.floor(wrong / cols)}`);
  assert.ok(new Set(Array.from({ length: PERIOD }, (_, r) => values[r * cols])).size === PERIOD, `${what}: rows differ`);
}

test('norms, log-probabilities, scores and ranking losses reach every row', async () => {
  assert.ok(ROWS > gpu().adapter.limits.maxComputeWorkgroupsPerDimension);
  const random = seeded(3);
  const x = matrix(repeated(4, 1), 4);
  for (const kind of ['layer', 'rms'] as const) {
    const weight = parameter('g', padded(random.normals(4)));
    const { y, gradients } = await differentiate((tape) => norm(tape, x, kind, weight, kind === 'layer' ? parameter('b', padded(random.normals(4))) : undefined, 1e-5),
      matrix(repeated(4, 2), 4), [x]);
    assertRepeats(y, 4, kind);
    assertRepeats(gradients[0], 4, `${kind}, gradient`);
  }
  const scores = vector(ROWS);
  const stats = persistent(ROWS, 4);
  const targets = column(Array.from({ length: ROWS }, (_, i) => i % PERIOD), 'u32');
  const rewards = repeated(2, 4);
  const loss = {
    rewards: column(rewards),
    ranks: column(rewards.map((_, i) => i % 2)),
    prompts: matrix(Array.from({ length: ROWS * 2 }, (_, i) => (i % 2 === 0 ? i : 2)), 2, 'u32', 2),
    margins: vector(ROWS),
    weights: column(new Float32Array(ROWS).fill(1)),
    dRewards: vector(ROWS * 2),
    stats: persistent(ROWS, 4),
  };
  const unembedding = parameter('w', matrix(random.normals(PERIOD * 4), 4));
  const [r, logprobs, losses, dRewards] = await compute(() => {
    const tape = new Tape(false);
    scalarHead(tape, x, parameter('w', padded(random.normals(4))), column([1, 0]), scores);
    tokenLogprob(tape, x, unembedding, targets, stats);
    rankingLoss(loss);
  }, [scores, stats, loss.stats, loss.dRewards]);
  assertRepeats(r, 1, 'scores');
  assertRepeats(logprobs, 4, 'log-probabilities');
  assertRepeats(losses, 4, 'ranking losses');
  assertRepeats(dRewards.filter((_, i) => i % 2 === 0), 1, 'their gradient');
});

test('the gradient of an embedding reaches every one of more distinct ids', async () => {
  const table = parameter('tokens', persistent(ROWS, 4));
  const ids = Uint32Array.from({ length: ROWS }, (_, i) => ROWS - 1 - i);
  const runs = { runs: matrix(Array.from(ids).flatMap((id, i) => [id, i, i + 1, 0]), 4, 'u32'), order: column(Array.from(ids, (_, i) => i), 'u32') };
  const dy = repeated(4, 5);
  await differentiate((tape) => embedding(tape, column(ids, 'u32'), table, runs), matrix(dy, 4), []);
  const got = await readFloats(table.grad);
  const wrong = got.findIndex((x, i) => x !== dy[(ROWS - 1 - Math.floor(i / 4)) * 4 + (i % 4)]);
  assert.is(wrong, -1);
});

test('cache_copy copies slots of any length and width: the first places of the pairs and no others', async () => {
  for (const [kvHeads, headDim, length, places] of [[32, 64, 2049, 2047], [3, 10, 70, 69], [1, 4, 8, 8]]) {
    const width = kvHeads * headDim;
    const slots = 3;
    const values = Float32Array.from({ length: slots * length * width }, (_, i) => (i * 31) % 65_537);
    const cache = layerCache(slots * length, { kvHeads, headDim, heads: kvHeads }, 'f32');
    const all: Tensor[] = [cache.keys, cache.values];
    upload(cache.keys, values);
    upload(cache.values, values.map((v) => -v));
    const pairs = matrix([1, 2, places, 0, 0, 0, 0, 0], 4, 'u32');
    const [keys, negative] = await compute(() => cacheCopy(pairs, { kvHeads, headDim, heads: kvHeads }, cache, length, length), all);
    const slot = length * width;
    const expected = values.slice();
    for (let head = 0; head < slot; head += length * headDim) {
      expected.copyWithin(2 * slot + head, slot + head, slot + head + places * headDim);
    }
    for (const [got, sign] of [[keys, 1], [negative, -1]] as const) {
      assert.is(got.findIndex((v, i) => v !== sign * expected[i]), -1, `${kvHeads} × ${headDim}, ${places} of ${length}`);
    }
    assert.not.equal(expected.slice(2 * slot, 2 * slot + 8), values.slice(2 * slot, 2 * slot + 8));
  }
});

test.run();
