import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { gaeOf, klRewardsOf, whitenOf } from '../../src/self_test/reference/ppo.ts';
import { assertClose, closeAfterTests, fixture, lanesToTest, openForTests, seeded } from './device.ts';
import { type Rollout, rewardsAndAdvantages, whitened } from './ppo_ops.ts';

test.before(openForTests);
test.after(closeAfterTests);

test('golden vectors: KL rewards, advantages, returns and whitening, junk under the mask', async () => {
  const g = fixture('ppo/rewards_gae.json');
  const [B, T] = [g.mask.length, g.mask[0].length];
  const mask: number[] = g.mask.flat();
  const masked = (rows: number[][]): number[] => rows.flat().map((x, i) => (mask[i] ? x : 0));
  const r: Rollout = {
    logp: g.logprobs.flat(),
    refLogp: g.ref_logprobs.flat(),
    values: g.values.flat(),
    scores: g.scores,
    episodes: g.response_lengths.map((length: number, b: number): [number, number] => [b * T, length]),
  };
  let tested = 0;
  for (const c of g.cases) {
    if (c.kl_estimator !== 'k1') continue; // the reward always takes k1
    const [rewards, advantages, returns, stats] = await rewardsAndAdvantages(r, c.beta, c.gamma, c.lambda);
    assertClose(rewards, masked(c.rewards), 'rewards', 1e-5);
    assertClose(advantages, masked(c.advantages), 'advantages', 1e-5);
    assertClose(returns, masked(c.returns), 'returns', 1e-5);
    const kl = Array.from({ length: B }, (_, b) => stats[b * 4]).reduce((a, b) => a + b) / B;
    assertClose([kl], [c.kl_sum_per_sequence_mean], 'KL a sequence', 1e-5);
    for (const lanes of lanesToTest()) {
      const advantage = await whitened(c.advantages.flat(), mask, false, lanes);
      assertClose(advantage[0], masked(c.advantages_whitened_biased), 'whitened advantages', 1e-5);
      const reward = await whitened(
        r.logp.map((_, i) => (mask[i] ? c.rewards.flat()[i] : NaN)),
        mask,
        true,
        lanes,
      );
      assertClose(reward[0], masked(c.rewards_whitened_keep_mean_biased), 'whitened rewards', 1e-5);
      const from = await rewardsAndAdvantages(r, c.beta, c.gamma, c.lambda);
      assert.equal(from[1], advantages, 'repeats bit for bit');
    }
    tested++;
  }
  assert.is(tested, 3);
  const k3 = g.cases.find((c: { kl_estimator: string }) => c.kl_estimator === 'k3');
  const [, , , stats] = await rewardsAndAdvantages(r, 0.05, 1, 0.95);
  const sums = k3.kl.map((row: number[], b: number) => row.slice(0, g.response_lengths[b]).reduce((a, x) => a + x));
  assertClose(
    sums.map((_: number, b: number) => stats[b * 4 + 1]),
    sums,
    'k3 a sequence',
    1e-5,
  );
});

test('rewards and advantages equal the reference for odd lengths, with gaps and empty episodes', async () => {
  const random = seeded(11);
  for (const E of [1, 7, 65]) {
    const lengths = Array.from({ length: E }, (_, e) => (e % 6 === 5 ? 0 : [1, 7, 8, 9, 63, 130][e % 5]));
    const episodes: [number, number][] = [];
    let M = 0;
    for (const length of lengths) {
      episodes.push([M, length]);
      M += length + 2; // a gap of places that belong to nobody
    }
    const r: Rollout = {
      logp: [...random.normals(M)],
      refLogp: [...random.normals(M)],
      values: [...random.normals(M, 3)],
      scores: [...random.normals(E, 2)],
      episodes,
    };
    const beta = Math.fround(0.1);
    const [rewards, advantages, returns, stats] = await rewardsAndAdvantages(r, beta, 0.9, 0.8);
    const expected = [rewards, advantages, returns].map((x) => new Array<number>(x.length).fill(0));
    episodes.forEach(([first, length], e) => {
      const [logp, refLogp, values] = [r.logp, r.refLogp, r.values].map((x) => x.slice(first, first + length));
      const own = klRewardsOf(logp, refLogp, r.scores[e], beta);
      const g = gaeOf(own, values, Math.fround(0.9), Math.fround(0.8));
      [own, g.advantages, g.returns].forEach((x, i) => expected[i].splice(first, length, ...x));
      const d = logp.map((l, t) => l - refLogp[t]);
      const sum = (x: number[]): number => x.reduce((a, b) => a + b, 0);
      assertClose(
        stats.slice(e * 4, e * 4 + 4),
        [sum(d), sum(d.map((x) => Math.exp(-x) - 1 + x)), -beta * sum(d), length > 0 ? 1 : 0],
        'sums',
        1e-5,
        1e-6,
      );
    });
    [rewards, advantages, returns].forEach((x, i) => assertClose(x, expected[i], `E ${E}, output ${i}`, 2e-6));
  }
});

test('equal policies have a KL of exactly 0', async () => {
  const logp = [...seeded(1).normals(20, 3)];
  const r = { logp, refLogp: logp, values: logp.map(() => 0), scores: [2], episodes: [[0, 20]] as [number, number][] };
  const [rewards, , , stats] = await rewardsAndAdvantages(r, 0.5, 1, 1);
  assert.equal(
    [...stats].map((x) => x + 0),
    [0, 0, 0, 1],
  );
  assert.equal(
    [...rewards].map((x) => x + 0),
    [...new Array(19).fill(0), 2],
  );
});

test('whitening: every size, a large mean, all masked, one place', async () => {
  const random = seeded(12);
  for (const M of [1, 7, 8, 9, 63, 65, 1000, 4097]) {
    const mask = Array.from({ length: M }, (_, i) => (i === 0 || random.uniform() < 0.7 ? 1 : 0));
    const values = Array.from(random.normals(M, 0.5), (x) => Math.fround(x + 300));
    const kept = values.filter((_, i) => mask[i]);
    for (const keepMean of [false, true]) {
      const expected = whitenOf(kept, keepMean);
      for (const lanes of lanesToTest()) {
        const [out, stats] = await whitened(
          values.map((x, i) => (mask[i] ? x : Infinity)),
          mask,
          keepMean,
          lanes,
        );
        assertClose(
          [...out].filter((_, i) => mask[i]),
          expected.out,
          `M ${M}`,
          2e-5,
          M === 1 ? 1e-3 : 0,
        );
        assert.ok(
          out.every((x, i) => mask[i] || x === 0),
          'zero under the mask',
        );
        assertClose(stats, [kept.length, expected.mean, expected.variance, 0], 'statistics', 1e-6, 1e-5);
      }
    }
  }
  const [out, stats] = await whitened([1, NaN, 3], [0, 0, 0], false);
  assert.equal([...out, ...stats], [0, 0, 0, 0, 0, 0, 0]);
});

test.run();
