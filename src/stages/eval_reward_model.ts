import type { RunContext } from '../context.ts';
import { UsageError } from '../errors.ts';
import { loadModel } from '../model/load.ts';
import type { EvalSettings } from '../options.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { ratio, type Statistic } from '../train/bootstrap.ts';
import { minusLogSigmoid, rankingReport, strictPairs, type ScoredRanking } from '../train/ranking_metrics.ts';
import { inGroups, measured, type Report } from './eval_report.ts';
import { Scorer } from './judge.ts';
import { readRankings, scoreRankings } from './reward.ts';

/** Loss, accuracy and calibration of a reward model on held-out rankings (see rankingReport); intervals over prompts. */
export async function evaluateRewardModel(settings: EvalSettings, tokenizer: Tokenizer, context: RunContext): Promise<Report> {
  const model = loadModel(settings.model!, { dtype: settings.dtype, kind: 'reward' });
  const { rankings } = await readRankings(settings.data, tokenizer, model.config.context, settings, context);
  if (settings.dryRun) return { prompts: rankings.length, parameters: model.weights.count };
  if (!rankings.hasStrictPair()) {
    throw new UsageError(`${settings.data.join(', ')}: all ranks are ties, so there is no pair to judge`);
  }
  const scorer = Scorer.within(settings.memory, model);
  const scored: ScoredRanking[] = [];
  await inGroups('eval rm', [...rankings], settings, context, async (group) => void scored.push(...await scoreRankings(scorer, group)));
  return reportWithIntervals(scored, settings);
}

/** Sums of one kind over the pairs of each prompt. */
class PairSums {
  readonly pairs: Float64Array;
  readonly correct: Float64Array;

  constructor(prompts: number) {
    this.pairs = new Float64Array(prompts);
    this.correct = new Float64Array(prompts);
  }

  add(prompt: number, difference: number): void {
    this.pairs[prompt]++;
    if (difference > 0) this.correct[prompt]++;
  }

  get accuracy(): Statistic {
    return ratio(this.correct, this.pairs);
  }

  /** The accuracy `name` of what was measured with the numbers it rests on; a single prompt has no interval. */
  part(found: Report, name: string): Report {
    const prompts = this.pairs.filter((n) => n > 0).length;
    const pairs = this.pairs.reduce((sum, n) => sum + n, 0);
    return { accuracy: found[name], ...(prompts > 1 ? { accuracy_interval: found[`${name}_interval`] } : {}), pairs, prompts };
  }
}

/** rankingReport with intervals. Every statistic is a function of sums by prompt, so that a resample is quick. */
export function reportWithIntervals(scored: readonly ScoredRanking[], settings: EvalSettings): Report {
  const report = rankingReport(scored);
  const count = scored.length;
  const column = (): Float64Array => new Float64Array(count);
  const all = new PairSums(count);
  const [loss, judged, margin, rewards, squares, responses] = [column(), column(), column(), column(), column(), column()];
  const bins = Array.from({ length: 10 }, () => ({ sums: new PairSums(count), confidence: column() }));
  const byK = new Map(Object.keys(report.accuracy_by_k).map((k) => [Number(k), new PairSums(count)]));
  const byGap = report.accuracy_by_rank_gap.map(() => new PairSums(count));
  for (const { prompt, k, gap, difference, margin: given } of strictPairs(scored)) {
    all.add(prompt, difference);
    loss[prompt] += minusLogSigmoid(difference - given);
    margin[prompt] += difference;
    const confidence = 1 / (1 + Math.exp(-Math.abs(difference)));
    const bin = bins[Math.min(9, Math.floor((confidence - 0.5) * 20))];
    bin.sums.add(prompt, difference);
    bin.confidence[prompt] += confidence;
    byK.get(k)!.add(prompt, difference);
    const last = byGap.length - 1;
    byGap[report.accuracy_by_rank_gap.findIndex(({ from, to }, i) => gap >= from && (gap < to || i === last))].add(prompt, difference);
  }
  scored.forEach((ranking, i) => {
    if (all.pairs[i] > 0) {
      loss[i] /= all.pairs[i];
      judged[i] = 1;
    }
    for (const r of ranking.rewards) {
      rewards[i] += r;
      squares[i] += (r - report.mean_reward) ** 2;
      responses[i]++;
    }
  });
  const offset = ratio(rewards, responses);
  const spread = ratio(squares, responses);
  const calibration: Statistic = (units) => {
    let [error, pairs] = [0, 0];
    for (const { sums, confidence } of bins) {
      let difference = 0;
      for (let i = 0; i < units.length; i++) {
        difference += sums.correct[units[i]] - confidence[units[i]];
        pairs += sums.pairs[units[i]];
      }
      error += Math.abs(difference);
    }
    return error / pairs;
  };
  const whole = {
    loss: ratio(loss, judged),
    accuracy: all.accuracy,
    margin: ratio(margin, all.pairs),
    mean_reward: offset,
    std_reward: (units: ArrayLike<number>) => Math.sqrt(spread(units) - (offset(units) - report.mean_reward) ** 2),
    calibration_error: calibration,
  };
  const parts = (groups: Iterable<[number, PairSums]>, of: string) => Object.fromEntries([...groups].map(([key, sums]) => [`${of} ${key}`, sums.accuracy]));
  // All at once: they share the resamples, which take the longest.
  const found = measured(count, { ...whole, ...parts(byK, 'k'), ...parts(byGap.entries(), 'gap') }, settings);
  return {
    prompts: report.prompts,
    pairs: report.pairs,
    ...Object.fromEntries(Object.keys(whole).flatMap((name) => [name, `${name}_interval`]).map((name) => [name, found[name]])),
    accuracy_by_k: Object.fromEntries([...byK].map(([k, sums]) => [k, sums.part(found, `k ${k}`)])),
    accuracy_by_rank_gap: report.accuracy_by_rank_gap.map(({ from, to }, i) => ({ from, to, ...byGap[i].part(found, `gap ${i}`) })),
  };
}
