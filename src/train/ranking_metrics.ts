/** A prompt's rewards beside its ranks (lower is better). */
export interface ScoredRanking {
  rewards: number[];
  ranks: number[];
  margin?: number;
}

export interface RankingReport {
  loss: number;
  /** Strict pairs that the rewards order as the ranks do. */
  accuracy: number;
  pairs: number;
  prompts: number;
  /** Mean r_w − r_l over strict pairs. */
  margin: number;
  mean_reward: number;
  std_reward: number;
  /** Expected calibration error of σ(r_w − r_l): 10 equal bins of confidence. */
  calibration_error: number;
  accuracy_by_k: Record<string, { accuracy: number; pairs: number }>;
  /** Accuracy of the pairs whose rank difference lies in each quarter of all differences. */
  accuracy_by_rank_gap: { from: number; to: number; accuracy: number; pairs: number }[];
}

interface Pair { prompt: number; k: number; gap: number; difference: number; margin: number }

/** −log σ(x), stable for any x. */
export const minusLogSigmoid = (x: number): number => (x > 0 ? Math.log1p(Math.exp(-x)) : -x + Math.log1p(Math.exp(x)));

/** All strict pairs, each with its reward difference r_w − r_l. Ties are left out. */
export function strictPairs(rankings: readonly ScoredRanking[]): Pair[] {
  return rankings.flatMap(({ rewards, ranks, margin = 0 }, prompt) => {
    const pairs: Pair[] = [];
    for (let w = 0; w < ranks.length; w++) {
      for (let l = 0; l < ranks.length; l++) {
        if (ranks[w] < ranks[l]) {
          pairs.push({ prompt, k: ranks.length, gap: ranks[l] - ranks[w], difference: rewards[w] - rewards[l], margin });
        }
      }
    }
    return pairs;
  });
}

/** Loss (Ouyang et al. 2022, equation 1: mean over prompts of the mean over pairs), accuracy and calibration of rewards. */
export function rankingReport(rankings: readonly ScoredRanking[]): RankingReport {
  const pairs = strictPairs(rankings);
  const rewards = rankings.flatMap((r) => r.rewards);
  const mean = average(rewards);
  const byPrompt = group(pairs, (p) => p.prompt);
  const ordered = (list: readonly Pair[]): number => average(list.map((p) => (p.difference > 0 ? 1 : 0)));
  const gaps = pairs.map((p) => p.gap).sort((a, b) => a - b);
  const quarters = [0, 0.25, 0.5, 0.75, 1].map((q) => gaps[Math.min(gaps.length - 1, Math.floor(q * gaps.length))]);
  const edges = [...new Set(quarters)];
  return {
    loss: average([...byPrompt.values()].map((list) => average(list.map((p) => minusLogSigmoid(p.difference - p.margin))))),
    accuracy: ordered(pairs),
    pairs: pairs.length,
    prompts: byPrompt.size,
    margin: average(pairs.map((p) => p.difference)),
    mean_reward: mean,
    std_reward: Math.sqrt(average(rewards.map((r) => (r - mean) ** 2))),
    calibration_error: calibrationError(pairs),
    accuracy_by_k: Object.fromEntries([...group(pairs, (p) => p.k)].sort((a, b) => a[0] - b[0])
      .map(([k, list]) => [k, { accuracy: ordered(list), pairs: list.length }])),
    accuracy_by_rank_gap: edges.slice(0, Math.max(1, edges.length - 1)).map((from, i) => {
      const last = i >= edges.length - 2;
      const to = edges[i + 1] ?? from;
      const list = pairs.filter((p) => p.gap >= from && (last ? p.gap <= to : p.gap < to));
      return { from, to, accuracy: ordered(list), pairs: list.length };
    }),
  };
}

/** How far the stated confidence σ(|Δr|) lies from the share of pairs that are right, weighted over 10 bins from 0.5 to 1. */
function calibrationError(pairs: readonly Pair[]): number {
  const bins = group(pairs.map(({ difference }) => ({ right: difference > 0 ? 1 : 0, confidence: 1 / (1 + Math.exp(-Math.abs(difference))) })),
    ({ confidence }) => Math.min(9, Math.floor((confidence - 0.5) * 20)));
  let error = 0;
  for (const list of bins.values()) {
    error += list.length * Math.abs(average(list.map((x) => x.right)) - average(list.map((x) => x.confidence)));
  }
  return pairs.length > 0 ? error / pairs.length : NaN;
}

export const average = (list: readonly number[]): number => list.reduce((sum, x) => sum + x, 0) / list.length;

function group<T, K>(items: readonly T[], key: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>();
  for (const item of items) {
    const k = key(item);
    const list = groups.get(k);
    if (list) list.push(item);
    else groups.set(k, [item]);
  }
  return groups;
}
