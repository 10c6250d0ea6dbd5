// PPO's ops on host numbers: uploads, runs and reads back, for the tests of rewards and of objectives.
import {
  gae, klRewards, OBJECTIVE_STATS_LENGTH, policyObjective, ppoSettings, valueLoss, whiten,
} from '../../src/gpu/ops/ppo.ts';
import { type Lanes, wideLanes } from '../../src/gpu/ops/reduction.ts';
import { persistent, vector } from '../../src/gpu/tensor.ts';
import { column, compute, matrix } from './device.ts';

/** The settings' vector, of the published values but for `s`. */
export const settingsOf = (s: Partial<Parameters<typeof ppoSettings>[0]>) =>
  column(ppoSettings({ klCoef: 0.05, discount: 1, lambda: 0.95, clip: 0.2, valueClip: 0.2, ...s }));

/** Episodes as (first place, length), and what was sampled at each place. */
export interface Rollout {
  logp: number[];
  refLogp: number[];
  values: number[];
  scores: number[];
  episodes: [number, number][];
}

/** [rewards, advantages, returns, sums of each episode] of a rollout. */
export async function rewardsAndAdvantages(r: Rollout, beta: number, discount: number, lambda: number) {
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

/** [whitened values, statistics]. */
export async function whitened(
  values: ArrayLike<number>,
  mask: ArrayLike<number>,
  keepMean: boolean,
  lanes: Lanes = wideLanes(),
) {
  const [x, m, out, stats] = [column(values), column(mask), column(new Array(values.length).fill(9)), vector(4)];
  return compute(() => whiten({ values: x, mask: m, out, stats, keepMean }, lanes), [out, stats]);
}

/** A micro-batch of the policy's objective. */
export interface Batch {
  logp: number[];
  oldLogp: number[];
  advantages: number[];
  weights: number[];
}

/** The policy objective of these micro-batches, statistics gathered over all of them. */
export async function policy(batches: Batch[], clip = 0.2, lanes: Lanes = wideLanes()) {
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

/** Gradient and statistics of the value loss. */
export async function value(
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
