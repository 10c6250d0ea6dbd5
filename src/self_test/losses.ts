import { gaeOf, klRewardsOf, policyObjectiveOf, valueLossOf, whitenOf } from './reference/ppo.ts';
import { rankingLossOf } from './reference/ranking.ts';
import {
  gae,
  klRewards,
  OBJECTIVE_STATS_LENGTH,
  policyObjective,
  ppoSettings,
  valueLoss,
  whiten,
} from '../gpu/ops/ppo.ts';
import { rankingLoss } from '../gpu/ops/ranking_loss.ts';
import { persistent, vector } from '../gpu/tensor.ts';
import { type Check, close, type KernelTest } from './check.ts';
import { column, compute, matrix, numbers } from './on_device.ts';

const floats = (values: readonly number[]): Float32Array => Float32Array.from(values);

/** K from 2 to 14, ties and a prompt whose responses are all tied. */
async function checkRanking(): Promise<Check[]> {
  const { normals, below } = numbers(11);
  const prompts = [2, 3, 4, 9, 14, 3].map((K, i) => ({
    rewards: normals(K, 2),
    ranks: Float32Array.from({ length: K }, () => (i === 5 ? 1 : below(4))),
    margin: i % 2 ? 0.5 : 0,
  }));
  const firsts = prompts.map((_, i) => prompts.slice(0, i).reduce((sum, p) => sum + p.rewards.length, 0));
  const weight = Math.fround(1 / prompts.length);
  const responses = prompts.flatMap((p) => [...p.rewards]);
  const io = {
    rewards: column(floats(responses)),
    ranks: column(floats(prompts.flatMap((p) => [...p.ranks]))),
    prompts: matrix(Uint32Array.from(prompts.flatMap((p, i) => [firsts[i], p.rewards.length])), 2, 2),
    margins: column(floats(prompts.map((p) => p.margin))),
    weights: column(new Float32Array(prompts.length).fill(weight)),
    dRewards: vector(responses.length),
    stats: persistent(prompts.length, 4),
  };
  const [gradient, stats] = await compute(() => rankingLoss(io), [io.dRewards, io.stats]);
  const expected = prompts.map((p) => rankingLossOf(p.rewards, p.ranks, p.margin));
  return [
    close(
      'loss and counts',
      stats,
      expected.flatMap((e) => [e.loss, e.pairs, e.correct, e.margins]),
    ),
    close(
      'gradient',
      gradient,
      expected.flatMap((e) => e.gradient.map((g) => g * weight)),
    ),
  ];
}

const SETTINGS = { klCoef: 0.125, discount: 0.9375, lambda: 0.875, clip: 0.25, valueClip: 0.25 }; // exact in float32

async function checkRewards(): Promise<Check[]> {
  const lengths = [1, 7, 64, 33, 130];
  const spans = lengths.map((length, e) => [lengths.slice(0, e).reduce((a, b) => a + b, 0), length]);
  const M = lengths.reduce((a, b) => a + b);
  const { normals } = numbers(12);
  const [logp, refLogp, values, scores] = [normals(M), normals(M), normals(M, 3), normals(lengths.length, 2)];
  const shared = {
    episodes: matrix(Uint32Array.from(spans.flat()), 2, 2),
    settings: column(ppoSettings(SETTINGS)),
  };
  const [rewards, advantages, returns] = [vector(M), vector(M), vector(M)];
  const inputs = { logp: column(logp), refLogp: column(refLogp), scores: column(scores), values: column(values) };
  const build = (): void => {
    klRewards({ ...shared, ...inputs, rewards, stats: persistent(lengths.length, 4) });
    gae({ ...shared, rewards, values: inputs.values, advantages, returns });
  };
  const got = await compute(build, [rewards, advantages, returns]);
  const episodes = spans.map(([first, length], e) => {
    const part = (x: Float32Array): number[] => [...x.subarray(first, first + length)];
    const own = klRewardsOf(part(logp), part(refLogp), scores[e], SETTINGS.klCoef);
    return { rewards: own, ...gaeOf(own, part(values), SETTINGS.discount, SETTINGS.lambda) };
  });
  return [
    close(
      'rewards',
      got[0],
      episodes.flatMap((e) => e.rewards),
    ),
    close(
      'advantages',
      got[1],
      episodes.flatMap((e) => e.advantages),
    ),
    close(
      'returns',
      got[2],
      episodes.flatMap((e) => e.returns),
    ),
  ];
}

async function checkWhiten(): Promise<Check[]> {
  const M = 1003;
  const { normals, below } = numbers(13);
  const values = normals(M).map((x) => x + 5);
  const mask = Float32Array.from({ length: M }, () => (below(4) > 0 ? 1 : 0));
  const kept = [...values].filter((_, i) => mask[i] === 1);
  const [x, m] = [column(values), column(mask)];
  const both = await Promise.all(
    [false, true].map(async (keepMean) => {
      const [out, stats] = [vector(M), vector(4)];
      const [got] = await compute(() => whiten({ values: x, mask: m, out, stats, keepMean }), [out]);
      const expected = whitenOf(kept, keepMean).out;
      return close(
        keepMean ? 'keeping the mean' : 'mean 0',
        [...got].filter((_, i) => mask[i] === 1),
        expected,
      );
    }),
  );
  return both;
}

/** Ratios and values on both sides of their clipping ranges. */
async function checkObjectives(): Promise<Check[]> {
  const M = 777;
  const { normals } = numbers(14);
  const [oldLogp, advantages, oldValues, returns] = [normals(M), normals(M), normals(M), normals(M)];
  const logp = oldLogp.map((x, i) => x + 0.4 * Math.sin(i));
  const values = oldValues.map((x, i) => x + 0.5 * Math.cos(i));
  const weights = column(new Float32Array(M).fill(1 / M));
  const settings = column(ppoSettings(SETTINGS));
  const [dLogp, dValues] = [vector(M), vector(M)];
  const [policyStats, valueStats] = [vector(OBJECTIVE_STATS_LENGTH), vector(OBJECTIVE_STATS_LENGTH)];
  const policy = {
    logp: column(logp),
    oldLogp: column(oldLogp),
    advantages: column(advantages),
    weights,
    settings,
    dLogp,
    stats: policyStats,
  };
  const value = {
    values: column(values),
    oldValues: column(oldValues),
    returns: column(returns),
    weights,
    settings,
    dValues,
    stats: valueStats,
  };
  const build = (): void => {
    policyObjective(policy);
    valueLoss(value);
  };
  const got = await compute(build, [dLogp, policyStats, dValues, valueStats]);
  const expectedPolicy = policyObjectiveOf([...logp], [...oldLogp], [...advantages], SETTINGS.clip);
  const expectedValue = valueLossOf([...values], [...oldValues], [...returns], SETTINGS.valueClip);
  return [
    close('policy: gradient', got[0], expectedPolicy.gradient),
    close('policy: loss', [got[1][1]], [expectedPolicy.loss]),
    close('value: gradient', got[2], expectedValue.gradient),
    close('value: loss', [got[3][1]], [expectedValue.loss]),
  ];
}

export const lossTests: KernelTest[] = [
  { name: 'ranking_loss', kernels: ['ranking_loss'], run: checkRanking },
  { name: 'ppo_rewards', kernels: ['ppo_rewards', 'ppo_kl', 'gae'], run: checkRewards },
  { name: 'whiten', kernels: ['whiten', 'reduction'], run: checkWhiten },
  { name: 'ppo_objective', kernels: ['ppo_policy_objective', 'ppo_value_loss'], run: checkObjectives },
];
