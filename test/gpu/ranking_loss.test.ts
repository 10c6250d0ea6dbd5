import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type Lanes, rowLanes } from '../../src/gpu/ops/reduction.ts';
import { rankingLoss } from '../../src/gpu/ops/ranking_loss.ts';
import { persistent, vector } from '../../src/gpu/tensor.ts';
import { rankingLossOf } from '../../src/self_test/reference/ranking.ts';
import {
  assertClose,
  closeAfterTests,
  column,
  compute,
  fixture,
  lanesToTest,
  matrix,
  openForTests,
  seeded,
} from './device.ts';

interface Prompt {
  rewards: number[];
  ranks: number[];
  margin?: number;
}

test.before(openForTests);
test.after(closeAfterTests);

const rowVariants = (): Lanes[] => lanesToTest().filter((l) => l.workgroup === 64);

/** Runs the kernel on these prompts as one batch, with padding behind: an empty prompt, responses of no prompt. */
async function run(prompts: Prompt[], lanes: Lanes = rowLanes()) {
  const counted = prompts.filter((p) => rankingLossOf(p.rewards, p.ranks).pairs > 0).length;
  const rewards = prompts.flatMap((p) => p.rewards);
  const firsts: number[] = [];
  let first = 0;
  for (const p of prompts) {
    firsts.push(first, p.rewards.length);
    first += p.rewards.length;
  }
  const io = {
    rewards: column([...rewards, NaN, 1e30]),
    ranks: column([...prompts.flatMap((p) => p.ranks), 0, 1]),
    prompts: matrix([...firsts, 0, 0], 2, 'u32', 2),
    margins: column([...prompts.map((p) => p.margin ?? 0), 0]),
    weights: column([...prompts.map(() => 1 / Math.max(counted, 1)), 0]),
    dRewards: column(new Array(rewards.length + 2).fill(7)),
    stats: persistent(prompts.length + 1, 4),
  };
  const [gradient, stats] = await compute(() => rankingLoss(io, lanes), [io.dRewards, io.stats], 2);
  assert.equal([...gradient.slice(-2)], [0, 0], 'padding has no gradient');
  assert.equal([...stats.slice(-4)], [0, 0, 0, 0], 'nor statistics');
  const loss = prompts.reduce((sum, _, i) => sum + stats[i * 4], 0) / Math.max(counted, 1);
  return { gradient: [...gradient.slice(0, -2)], stats: [...stats.slice(0, -4)], loss, counted };
}

test('closed forms: equal rewards give ln 2, listed values give the known losses and gradient', async () => {
  for (let K = 2; K <= 9; K++) {
    const { loss, gradient } = await run([{ rewards: new Array(K).fill(0.7), ranks: [...Array(K).keys()] }]);
    assertClose([loss], [Math.LN2], `K ${K}`, 2e-7);
    assertClose([gradient.reduce((a, b) => a + b)], [0], 'sum of the gradient', 0, 1e-7);
  }
  const order = [0, 1, 2, 3];
  assertClose([(await run([{ rewards: [3, 2, 1, 0], ranks: order }])).loss], [0.2070381], 'best first', 3e-7);
  assertClose([(await run([{ rewards: [0, 1, 2, 3], ranks: order }])).loss], [1.8737047], 'worst first', 3e-7);
  const given = await run([{ rewards: [1.2, -0.3, 0.4, -1.0], ranks: order }]);
  assertClose([given.loss], [0.4007311], 'given', 3e-7);
  assertClose(given.gradient, [-0.0987003, -0.1362624, 0.1300662, 0.1048965], 'gradient', 1e-6);
  assertClose(
    [(await run([{ rewards: [1.2, -0.3, 0.4, -1.0], ranks: [1, 2, 2, 3] }])).loss],
    [0.2602401],
    'with a tie',
    3e-7,
  );
});

test('golden vectors: mixed K, ties, huge margins, shifts and permutations', async () => {
  for (const c of fixture('reward/losses.json').kwise.cases) {
    for (const lanes of rowVariants()) {
      const prompts = (c.rewards as number[][]).map((rewards, i) => ({ rewards, ranks: c.ranks[i] as number[] }));
      const got = await run(prompts, lanes);
      assertClose([got.loss], [c.loss], c.name, 1e-5);
      assertClose(got.gradient, c.grad.flat(), `${c.name}: gradient`, 1e-5);
      assert.equal(
        prompts.map((_, i) => got.stats[i * 4 + 1]),
        c.strict_pairs,
      );
      assertClose(
        prompts.map((_, i) => got.stats[i * 4]),
        c.loss_per_prompt.map((l: number | null) => l ?? 0),
        'per prompt',
        1e-5,
      );
      const pairs = prompts.reduce((sum, _, i) => sum + got.stats[i * 4 + 1], 0);
      const correct = prompts.reduce((sum, _, i) => sum + got.stats[i * 4 + 2], 0);
      assertClose([correct / pairs], [c.pair_accuracy], 'accuracy', 1e-6);
    }
  }
});

test('golden vectors: the pairwise loss with margins', async () => {
  for (const c of fixture('reward/losses.json').trl_pairwise.cases) {
    if (c.center_rewards_coefficient !== null) continue;
    const prompts = (c.chosen as number[]).map((r, i) => ({
      rewards: [r, c.rejected[i]],
      ranks: [0, 1],
      margin: c.margin?.[i],
    }));
    const got = await run(prompts);
    assertClose([got.loss], [c.loss], 'loss', 1e-5);
    assertClose(
      got.gradient.filter((_, i) => i % 2 === 0),
      c.grad_chosen,
      'chosen',
      1e-5,
    );
    assertClose(
      got.gradient.filter((_, i) => i % 2 === 1),
      c.grad_rejected,
      'rejected',
      1e-5,
    );
  }
});

test('the reference’s gradient is its finite difference', () => {
  const random = seeded(3);
  for (const K of [2, 5, 9]) {
    const rewards = [...random.normals(K, 2)];
    const ranks = rewards.map(() => random.below(4));
    const { gradient } = rankingLossOf(rewards, ranks, 0.3);
    rewards.forEach((_, i) => {
      const at = (h: number) =>
        rankingLossOf(
          rewards.map((r, j) => (i === j ? r + h : r)),
          ranks,
          0.3,
        ).loss;
      assertClose([(at(1e-5) - at(-1e-5)) / 2e-5], [gradient[i]], 'finite difference', 0, 1e-8);
    });
  }
});

test('random batches equal the float64 reference: K 0…64, ties, every count of prompts', async () => {
  const random = seeded(5);
  for (const count of [1, 7, 8, 9, 65]) {
    const prompts = Array.from({ length: count }, (_, i): Prompt => {
      const K = i === 0 ? 64 : i % 5 === 4 ? i % 2 : 2 + (i % 13);
      const rewards = [...random.normals(K, i % 3 === 0 ? 20 : 1)];
      return {
        rewards,
        ranks: rewards.map(() => random.below(Math.max(2, K - 2))),
        margin: i % 2 ? Math.fround(0.25) : 0,
      };
    });
    const expected = prompts.map((p) => rankingLossOf(p.rewards, p.ranks, p.margin));
    for (const lanes of rowVariants()) {
      const got = await run(prompts, lanes);
      assertClose(
        got.gradient,
        expected.flatMap((e) => e.gradient.map((g) => g / got.counted)),
        'gradient',
        1e-5,
      );
      assertClose(
        got.stats,
        expected.flatMap((e) => [e.loss, e.pairs, e.correct, e.margins]),
        'statistics',
        1e-5,
      );
    }
  }
});

test('differences of 1e4 stay finite, and runs repeat bit for bit', async () => {
  const prompts = [
    { rewards: [1e4, -1e4, 0], ranks: [2, 1, 0] },
    { rewards: [0, 5e3], ranks: [0, 1] },
    { rewards: [0, -1e4], ranks: [0, 1] },
  ];
  const got = await run(prompts);
  assertClose(
    got.stats,
    prompts.flatMap((p) => {
      const e = rankingLossOf(p.rewards, p.ranks);
      return [e.loss, e.pairs, e.correct, e.margins];
    }),
    'statistics',
    1e-6,
  );
  assert.equal(await run(prompts), got);
});

test('responses tied with all others get no gradient', async () => {
  const got = await run([
    { rewards: [0.1, 0.9, 0.5], ranks: [1, 1, 1] },
    { rewards: [3, 1], ranks: [2, 2] },
  ]);
  assert.equal(got.gradient, [0, 0, 0, 0, 0]);
  assert.is(got.loss, 0);
});

test('a tensor longer than its prompts leaves what lies behind at zero', async () => {
  const dRewards = vector(3);
  const io = {
    rewards: column([1, 2, 3]),
    ranks: column([0, 1, 0]),
    prompts: matrix([0, 2], 2, 'u32', 2),
    margins: column([0]),
    weights: column([0]),
    dRewards,
    stats: persistent(1, 4),
  };
  const [gradient, stats] = await compute(() => rankingLoss(io), [dRewards, io.stats]);
  assert.equal([...gradient], [0, 0, 0], 'weight 0: no gradient at all');
  assert.is(stats[1], 1);
});

test.run();
