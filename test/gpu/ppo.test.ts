import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  explainedVariance,
  gae,
  klRewards,
  OBJECTIVE_STATS_LENGTH,
  POLICY_STATS,
  policyObjective,
  ppoSettings,
  VALUE_STATS,
  valueLoss,
  whiten,
} from '../../src/gpu/ops/ppo.ts';
import { type Lanes, wideLanes } from '../../src/gpu/ops/reduction.ts';
import { persistent, vector } from '../../src/gpu/tensor.ts';
import { gaeOf, klRewardsOf, policyObjectiveOf, valueLossOf, whitenOf } from '../../src/self_test/reference/ppo.ts';
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

test.before(openForTests);
test.after(closeAfterTests);

const settingsOf = (s: Partial<Parameters<typeof ppoSettings>[0]>) =>
  column(ppoSettings({ klCoef: 0.05, discount: 1, lambda: 0.95, clip: 0.2, valueClip: 0.2, ...s }));

interface Rollout {
  logp: number[];
  refLogp: number[];
  values: number[];
  scores: number[];
  episodes: [number, number][];
}

async function rewardsAndAdvantages(r: Rollout, beta: number, discount: number, lambda: number) {
  const M = r.logp.length;
  const E = r.episodes.length;
  const shared = {
    episodes: matrix(r.episodes.flat(), 2, 'u32', 2),
    settings: settingsOf({ klCoef: beta, discount, lambda }),
  };
  const [rewards, advantages, returns] = [
    column(new Array(M).fill(9)),
    column(new Array(M).fill(9)),
    column(new Array(M).fill(9)),
  ];
  const stats = persistent(E, 4);
  const [logp, refLogp, values, scores] = [column(r.logp), column(r.refLogp), column(r.values), column(r.scores)];
  return compute(() => {
    klRewards({ ...shared, logp, refLogp, scores, rewards, stats });
    gae({ ...shared, rewards, values, advantages, returns });
  }, [rewards, advantages, returns, stats]);
}

async function whitened(
  values: ArrayLike<number>,
  mask: ArrayLike<number>,
  keepMean: boolean,
  lanes: Lanes = wideLanes(),
) {
  const [x, m, out, stats] = [column(values), column(mask), column(new Array(values.length).fill(9)), vector(4)];
  return compute(() => whiten({ values: x, mask: m, out, stats, keepMean }, lanes), [out, stats]);
}

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

interface Batch {
  logp: number[];
  oldLogp: number[];
  advantages: number[];
  weights: number[];
}

/** The policy objective of these micro-batches, statistics gathered over all of them. */
async function policy(batches: Batch[], clip = 0.2, lanes: Lanes = wideLanes()) {
  const settings = settingsOf({ clip });
  const stats = vector(OBJECTIVE_STATS_LENGTH);
  const ios = batches.map((b) => ({
    logp: column(b.logp),
    oldLogp: column(b.oldLogp),
    advantages: column(b.advantages),
    weights: column(b.weights),
    settings,
    dLogp: column(b.logp.map(() => 9)),
    stats,
  }));
  const [s, ...gradients] = await compute(
    () => ios.forEach((io) => policyObjective(io, lanes)),
    [stats, ...ios.map((io) => io.dLogp)],
  );
  return { stats: [...s.slice(0, 9)], gradient: gradients.flatMap((g) => [...g]) };
}

async function value(
  v: number[],
  old: number[],
  returns: number[],
  weights: number[],
  valueClip = 0.2,
  lanes: Lanes = wideLanes(),
) {
  const stats = vector(OBJECTIVE_STATS_LENGTH);
  const io = {
    values: column(v),
    oldValues: column(old),
    returns: column(returns),
    weights: column(weights),
    settings: settingsOf({ valueClip }),
    dValues: column(v.map(() => 9)),
    stats,
  };
  const [gradient, s] = await compute(() => valueLoss(io, lanes), [io.dValues, stats]);
  return { gradient: [...gradient], stats: [...s.slice(0, 8)] };
}

test('golden vectors: policy and value losses, gradients and statistics, very large ratios', async () => {
  for (const c of fixture('ppo/losses.json').cases) {
    const mask: number[] = c.mask.flat();
    const n = mask.reduce((a, b) => a + b);
    const weights = mask.map((m) => m / n);
    const masked = (rows: number[][]): number[] => rows.flat().map((x, i) => (mask[i] ? x : 0));
    for (const lanes of lanesToTest()) {
      const p = await policy(
        [{ logp: c.logprobs.flat(), oldLogp: c.old_logprobs.flat(), advantages: c.advantages.flat(), weights }],
        c.clip,
        lanes,
      );
      assertClose(p.gradient, masked(c.grad_policy_loss_wrt_logprobs), 'policy gradient', 1e-5);
      const s = c.stats;
      const expected = [
        n,
        c.policy_loss,
        s.approxkl_k1,
        s.approxkl_k2,
        s.approxkl_k3,
        s.clipfrac,
        s.ratio_mean,
        s.ratio_max,
        s.ratio_min,
      ];
      expected.forEach((e, i) => assertClose([p.stats[i]], [e], `policy statistic ${i}`, 1e-5, 1e-7));
      const v = await value(c.values.flat(), c.old_values.flat(), c.returns.flat(), weights, c.value_clip, lanes);
      assertClose(v.gradient, masked(c.grad_value_loss_wrt_values), 'value gradient', 1e-5);
      assertClose(
        [v.stats[VALUE_STATS.loss], v.stats[VALUE_STATS.clipFraction]],
        [c.value_loss, s.vf_clipfrac],
        'value statistics',
        1e-5,
      );
      assertClose([v.stats[VALUE_STATS.returns]], [s.returns_mean], 'mean return', 1e-5, 1e-7);
      assertClose([explainedVariance(v.stats)], [s.explained_var], 'explained variance', 1e-5);
    }
  }
});

test('equal policies: ratio exactly 1, nothing clipped, gradient −w·A', async () => {
  const logp = [...seeded(2).normals(9, 4)];
  const advantages = [...seeded(3).normals(9)];
  const { stats, gradient } = await policy([{ logp, oldLogp: logp, advantages, weights: logp.map(() => 0.125) }]);
  assert.equal(
    [stats[POLICY_STATS.ratioMax], stats[POLICY_STATS.ratioMin], stats[POLICY_STATS.clipFraction]],
    [1, 1, 0],
  );
  assert.equal(
    [stats[POLICY_STATS.approxKl1] + 0, stats[POLICY_STATS.approxKl2], stats[POLICY_STATS.approxKl3]],
    [0, 0, 0],
  );
  assert.equal(
    gradient,
    advantages.map((a) => -a * 0.125),
  );
});

test('losses equal the reference for every size, and the reference’s gradients are finite differences', async () => {
  const random = seeded(13);
  for (const M of [1, 7, 8, 9, 63, 65, 1000]) {
    const [logp, oldLogp, advantages] = [
      [...random.normals(M, 0.3)],
      [...random.normals(M, 0.3)],
      [...random.normals(M)],
    ];
    const [v, old, returns] = [[...random.normals(M)], [...random.normals(M)], [...random.normals(M)]];
    const weights = new Array(M).fill(1 / M);
    const clip = Math.fround(0.2);
    const p = policyObjectiveOf(logp, oldLogp, advantages, clip);
    const l = valueLossOf(v, old, returns, clip);
    for (const lanes of lanesToTest()) {
      const got = await policy([{ logp, oldLogp, advantages, weights }], 0.2, lanes);
      assertClose(got.gradient, p.gradient, `policy gradient ${M}`, 1e-5);
      p.stats.forEach((e, i) => assertClose([got.stats[i]], [e], `policy statistic ${i}`, 2e-5, 1e-7));
      const gotV = await value(v, old, returns, weights, 0.2, lanes);
      assertClose(gotV.gradient, l.gradient, `value gradient ${M}`, 1e-5);
      l.stats.forEach((e, i) => assertClose([gotV.stats[i]], [e], `value statistic ${i}`, 1e-5, 1e-7));
    }
    if (M > 9) continue;
    const shift = (x: number[], i: number, h: number): number[] => x.map((y, j) => (i === j ? y + h : y));
    for (let i = 0; i < M; i++) {
      const dp = (h: number) => policyObjectiveOf(shift(logp, i, h), oldLogp, advantages, clip).loss;
      assertClose([(dp(1e-6) - dp(-1e-6)) / 2e-6], [p.gradient[i]], 'policy', 0, 1e-7);
      const dv = (h: number) => valueLossOf(shift(v, i, h), old, returns, clip).loss;
      assertClose([(dv(1e-6) - dv(-1e-6)) / 2e-6], [l.gradient[i]], 'value', 0, 1e-7);
    }
  }
});

test('the kernel’s gradients are finite differences of the kernel’s losses', async () => {
  const random = seeded(14);
  const M = 8;
  const [oldLogp, advantages, returns, old] = [
    [...random.normals(M)],
    [...random.normals(M)],
    [...random.normals(M)],
    [...random.normals(M)],
  ];
  const logp = oldLogp.map((x, i) => x + [0.05, -0.1, 0.6, -0.6, 0.01, 0.9, -0.9, 0.1][i]);
  const v = old.map((x, i) => x + [0.05, -0.1, 0.6, -0.6, 0.01, 0.9, -0.9, 0.1][i]);
  const weights = new Array(M).fill(1 / M);
  const p = await policy([{ logp, oldLogp, advantages, weights }]);
  const l = await value(v, old, returns, weights);
  for (let i = 0; i < M; i++) {
    const shift = (x: number[], h: number): number[] => x.map((y, j) => (i === j ? y + h : y));
    const h = 2 ** -7;
    const dp = await Promise.all(
      [h, -h].map(async (d) => (await policy([{ logp: shift(logp, d), oldLogp, advantages, weights }])).stats[1]),
    );
    assertClose([(dp[0] - dp[1]) / (2 * h)], [p.gradient[i]], `policy ${i}`, 1e-3, 2e-5);
    const dv = await Promise.all([h, -h].map(async (d) => (await value(shift(v, d), old, returns, weights)).stats[1]));
    assertClose([(dv[0] - dv[1]) / (2 * h)], [l.gradient[i]], `value ${i}`, 1e-3, 2e-5);
  }
});

test('micro-batches add up to the minibatch; padding counts for nothing', async () => {
  const random = seeded(15);
  const M = 50;
  const whole: Batch = {
    logp: [...random.normals(M)],
    oldLogp: [...random.normals(M)],
    advantages: [...random.normals(M)],
    weights: new Array(M).fill(1 / M),
  };
  const part = (from: number, to: number): Batch => ({
    logp: [...whole.logp.slice(from, to), NaN, Infinity],
    oldLogp: [...whole.oldLogp.slice(from, to), 1, -Infinity],
    advantages: [...whole.advantages.slice(from, to), Infinity, NaN],
    weights: [...whole.weights.slice(from, to), 0, 0],
  });
  const a = await policy([whole]);
  const b = await policy([part(0, 0), part(0, 13), part(13, 50)]);
  a.stats.forEach((e, i) => assertClose([b.stats[i]], [e], `statistic ${i}`, 2e-6, 1e-8));
  assert.equal(b.gradient, [0, 0, ...a.gradient.slice(0, 13), 0, 0, ...a.gradient.slice(13), 0, 0]);
});

test('log-ratios of hundreds stay finite; all-padding is all zero', async () => {
  const { stats, gradient } = await policy([
    {
      logp: [-1, -300, -1, -300],
      oldLogp: [-300, -1, -300, -1],
      advantages: [1, 1, 0, -1],
      weights: [0.25, 0.25, 0.25, 0.25],
    },
  ]);
  assert.ok([...stats, ...gradient].every(Number.isFinite), `${stats} ${gradient}`);
  assert.equal(
    gradient.map((g) => g + 0),
    [0, gradient[1], 0, 0],
  );
  assert.ok(Math.abs(gradient[1]) < 1e-30);
  assert.equal(
    (await policy([{ logp: [NaN], oldLogp: [0], advantages: [0], weights: [0] }])).stats,
    new Array(9).fill(0),
  );
  const unclipped = await value([5], [0], [1], [1], Infinity);
  assert.equal(
    [unclipped.gradient[0], unclipped.stats[VALUE_STATS.loss], unclipped.stats[VALUE_STATS.clipFraction]],
    [4, 8, 0],
  );
});

test('the bandit: rewards and objective give the exact gradient, and none at the optimum', async () => {
  for (const c of fixture('ppo/bandit.json').cases) {
    const softmax = (logits: number[]): number[] => {
      const top = Math.max(...logits);
      const e = logits.map((l) => Math.exp(l - top));
      const z = e.reduce((a, b) => a + b);
      return e.map((x) => x / z);
    };
    const refLogp = softmax(c.ref_logits).map(Math.log);
    const gradientAt = async (logits: number[]): Promise<number[]> => {
      const pi = softmax(logits);
      const logp = pi.map(Math.log);
      const r: Rollout = {
        logp,
        refLogp,
        values: logp.map(() => 0),
        scores: c.rewards,
        episodes: logp.map((_, i): [number, number] => [i, 1]),
      };
      const [, advantages] = await rewardsAndAdvantages(r, c.beta, 1, 1);
      // Every arm once, weighted by its probability: the expectation itself.
      const { gradient } = await policy([{ logp, oldLogp: logp, advantages: [...advantages], weights: pi }]);
      const total = gradient.reduce((a, b) => a + b);
      return gradient.map((g, i) => -(g - pi[i] * total));
    };
    for (const at of c.at_other_logits) assertClose(await gradientAt(at.logits), at.gradient, 'gradient', 1e-5, 1e-6);
    const best = c.ref_logits.map((l: number, i: number) => l + c.rewards[i] / c.beta);
    assertClose(softmax(best), c.pi_star, 'optimum', 1e-6);
    assertClose(await gradientAt(best), new Array(5).fill(0), 'at the optimum', 0, 1e-6);
  }
});

test.run();
