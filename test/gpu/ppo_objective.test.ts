import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { POLICY_STATS, VALUE_STATS } from '../../src/gpu/ops/ppo.ts';
import { policyObjectiveOf, valueLossOf } from '../../src/self_test/reference/ppo.ts';
import { explainedVariance } from '../../src/stages/ppo_metrics.ts';
import { assertClose, closeAfterTests, fixture, lanesToTest, openForTests, seeded } from './device.ts';
import { type Batch, policy, type Rollout, rewardsAndAdvantages, value } from './ppo_ops.ts';

test.before(openForTests);
test.after(closeAfterTests);

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
    }
    const real = (rows: number[][]): number[] => rows.flat().filter((_, i) => mask[i]);
    for (const offset of [0, 1e5]) { // returns far from zero explain as much
      assertClose([explainedVariance(real(c.returns).map((r) => r + offset), real(c.values))], [c.stats.explained_var], `explained variance, ${offset}`, 1e-5);
    }
  }
});

test('of returns that are all equal nothing can be explained', () => assert.ok(Number.isNaN(explainedVariance([3, 3, 3], [1, 2, 3]))));

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
