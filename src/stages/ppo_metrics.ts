import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomic } from '../files/atomic.ts';
import type { RunFolder } from '../run_folder.ts';
import { average } from '../train/ranking_metrics.ts';
import type { AdvantageStats, Episode } from './ppo_rollout.ts';
import type { UpdateStats } from './ppo_update.ts';

/** What an iteration's rollouts say: means over episodes, and over response tokens for the returns. */
export function rolloutMetrics(episodes: readonly Episode[], stats: AdvantageStats, beta: number) {
  const lengths = episodes.map((e) => e.logprobs.length);
  const scores = average(episodes.map((e) => e.score));
  return {
    'objective/kl': stats.kl,
    'objective/kl_k3': stats.klK3,
    'objective/kl_coef': beta,
    'objective/entropy': average(episodes.map((e) => -e.logprobs.reduce((sum, x) => sum + x, 0))),
    'objective/non_score_reward': stats.nonScoreReward,
    'objective/rlhf_reward': scores + stats.nonScoreReward,
    'objective/scores': scores,
    'returns/mean': stats.returnsMean,
    'returns/var': stats.returnsVar,
    'response_length/mean': average(lengths),
    'response_length/max': Math.max(...lengths),
    frac_eos: average(episodes.map((e) => (e.finish === 'stop' ? 1 : 0))),
  };
}

/** What an iteration's updates say: means over its minibatches, extremes of the ratio over all of them. */
export function updateMetrics(results: readonly UpdateStats[], mixed: boolean) {
  const mean = (key: Exclude<keyof UpdateStats, 'finite'>): number => average(results.map((r) => r[key]));
  return {
    'policy/approxkl_avg': mean('approxKl'),
    'policy/clipfrac_avg': mean('clipFraction'),
    'policy/entropy_avg': mean('entropy'),
    'loss/policy_avg': mean('policyLoss'),
    'loss/value_avg': mean('valueLoss'),
    ...(mixed ? { 'loss/ptx': mean('ptxLoss') } : {}),
    'val/ratio': mean('ratio'),
    'val/ratio_max': Math.max(...results.map((r) => r.ratioMax)),
    'val/ratio_min': Math.min(...results.map((r) => r.ratioMin)),
    'val/clipfrac_avg': mean('valueClipFraction'),
    'val/explained_var': mean('explainedVariance'),
    'grad_norm/policy': mean('policyNorm'),
    ...(mixed ? { 'grad_norm/ptx': mean('ptxNorm') } : {}),
    'grad_norm/value': mean('valueNorm'),
  };
}

/**
 * 1 − Var(R − V)/Var(R) of tokens' returns R and values V, summed in double precision about the means, since both may be far from zero; NaN where all
 * returns are equal.
 */
export function explainedVariance(returns: readonly number[], values: readonly number[]): number {
  const variance = (list: readonly number[]): number => {
    const mean = average(list);
    return average(list.map((x) => (x - mean) ** 2));
  };
  const all = variance(returns);
  return all > 0 ? 1 - variance(returns.map((r, i) => r - values[i]!)) / all : NaN;
}

/** rollouts/step-NNNNNN.jsonl, a row an episode: everything needed to compute the iteration again. */
export async function saveRollouts(folder: RunFolder, iteration: number, episodes: readonly Episode[]): Promise<void> {
  const dir = join(folder.path, 'rollouts');
  mkdirSync(dir, { recursive: true });
  const lines = episodes.map((e) => JSON.stringify({
    prompt: e.prompt,
    completion: e.completion,
    finish_reason: e.finish,
    prompt_tokens: [...Int32Array.from(e.promptIds)],
    tokens: [...e.ids.slice(e.promptIds.length)],
    logprobs: [...e.logprobs],
    ref_logprobs: [...e.refLogprobs],
    values: [...e.values],
    score: e.score,
    rewards: [...e.rewards],
    advantages: [...e.advantages],
    returns: [...e.returns],
  }));
  await writeFileAtomic(join(dir, `step-${String(iteration).padStart(6, '0')}.jsonl`), `${lines.join('\n')}\n`);
}
