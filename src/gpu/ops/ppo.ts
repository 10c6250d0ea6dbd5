import gaeSource from '../../../kernels/gae.wgsl';
import klSource from '../../../kernels/ppo_kl.wgsl';
import policySource from '../../../kernels/ppo_policy_objective.wgsl';
import rewardsSource from '../../../kernels/ppo_rewards.wgsl';
import valueSource from '../../../kernels/ppo_value_loss.wgsl';
import whitenSource from '../../../kernels/whiten.wgsl';
import { kernel } from '../kernel.ts';
import { clear, launch } from '../program.ts';
import type { Tensor } from '../tensor.ts';
import { type Lanes, wideKernel, wideLanes } from './reduction.ts';

/** The numbers of PPO that may change from one iteration to the next. */
export interface PpoSettings {
  /** β of the KL penalty in the reward. */
  klCoef: number;
  discount: number;
  /** λ of generalised advantage estimation. */
  lambda: number;
  /** ε of the ratio. */
  clip: number;
  /** ε_v of the values; Infinity: values are not clipped. */
  valueClip: number;
}

/** Length of the settings vector. */
export const PPO_SETTINGS_LENGTH = 8;

/** The settings as all ops of this file read them, from one vector. */
export function ppoSettings(s: PpoSettings): Float32Array {
  return Float32Array.of(s.klCoef, s.discount, s.lambda, s.clip, Math.min(s.valueClip, 1e30), 0, 0, 0);
}

/** The tokens of E responses, one after the other or with gaps, among M places. */
export interface Episodes {
  /** [E,2] u32, stride 2: first token, length; length 0 is padding. */
  episodes: Tensor;
  settings: Tensor;
}

/**
 * rewards[t] = −β (logp − refLogp) + [t = last] · score (Ziegler et al. 2019, equation 2), 0 outside the episodes.
 * logp, refLogp, rewards [M]; scores [E]; stats [E,4]: Σ k1, Σ k3 (nats a sequence), Σ −β k1, 1 for a real episode.
 */
export function klRewards(
  io: Episodes & { logp: Tensor; refLogp: Tensor; scores: Tensor; rewards: Tensor; stats: Tensor },
): void {
  clear(io.rewards);
  const E = io.episodes.rows;
  launch(
    kernel('ppo_rewards', `${rewardsSource}\n${klSource}`),
    [io.logp, io.refLogp, io.scores, io.episodes, io.settings, io.rewards, io.stats],
    [E],
    [Math.ceil(E / 64)],
  );
}

/** Advantages and returns [M] of rewards and values [M] along each episode, else 0 (Schulman et al. 2015, eq. 16). */
export function gae(io: Episodes & { rewards: Tensor; values: Tensor; advantages: Tensor; returns: Tensor }): void {
  clear(io.advantages);
  clear(io.returns);
  const E = io.episodes.rows;
  launch(
    kernel('gae', gaeSource),
    [io.rewards, io.values, io.episodes, io.settings, io.advantages, io.returns],
    [E],
    [Math.ceil(E / 64)],
  );
}

/**
 * out = (values − mean)/√(biased variance + 1e-8) over mask > 0, and 0 elsewhere; `keepMean` adds the mean again (the
 * form for rewards). All [M]; out is not values. stats, a vector of 4: places, mean, variance, 0.
 */
export function whiten(
  io: { values: Tensor; mask: Tensor; out: Tensor; stats: Tensor; keepMean?: boolean },
  lanes: Lanes = wideLanes(),
): void {
  launch(
    wideKernel('whiten', whitenSource, lanes, { KEEP_MEAN: io.keepMean ?? false }),
    [io.values, io.mask, io.out, io.stats],
    [io.values.rows],
    [1],
  );
}

/** Length of the vectors that `policyObjective` and `valueLoss` add their statistics to. */
export const OBJECTIVE_STATS_LENGTH = 12;

/** Where a minibatch's statistics lie: sums weighted by 1/tokens, so means once all micro-batches are in. */
export const POLICY_STATS = {
  tokens: 0,
  loss: 1,
  approxKl1: 2,
  approxKl2: 3,
  approxKl3: 4,
  clipFraction: 5,
  ratio: 6,
  ratioMax: 7,
  ratioMin: 8,
} as const;

/**
 * Σ weights · max(−A ρ, −A clip(ρ, 1 ± ε)), ρ = exp(logp − oldLogp), and its gradient by logp (Schulman et al. 2017,
 * equation 7). All [M]; weights are 1/(real tokens of the minibatch), 0 at padding, whose gradient is 0 whatever lies
 * there. `stats` is added to (see POLICY_STATS): clear it before a minibatch's first micro-batch.
 */
export function policyObjective(
  io: {
    logp: Tensor;
    oldLogp: Tensor;
    advantages: Tensor;
    weights: Tensor;
    settings: Tensor;
    dLogp: Tensor;
    stats: Tensor;
  },
  lanes: Lanes = wideLanes(),
): void {
  launch(
    wideKernel('ppo_policy_objective', `${policySource}\n${klSource}`, lanes),
    [io.logp, io.oldLogp, io.advantages, io.weights, io.settings, io.dLogp, io.stats],
    [io.logp.rows],
    [1],
  );
}

/** As POLICY_STATS. */
export const VALUE_STATS = {
  tokens: 0,
  loss: 1,
  clipFraction: 2,
} as const;

/**
 * ½ Σ weights · max((V − R)², (V_clip − R)²), V_clip within ε_v of oldValues, and its gradient by V. All [M]; weights
 * and `stats` as for `policyObjective`.
 */
export function valueLoss(
  io: {
    values: Tensor;
    oldValues: Tensor;
    returns: Tensor;
    weights: Tensor;
    settings: Tensor;
    dValues: Tensor;
    stats: Tensor;
  },
  lanes: Lanes = wideLanes(),
): void {
  launch(
    wideKernel('ppo_value_loss', valueSource, lanes),
    [io.values, io.oldValues, io.returns, io.weights, io.settings, io.dValues, io.stats],
    [io.values.rows],
    [1],
  );
}
