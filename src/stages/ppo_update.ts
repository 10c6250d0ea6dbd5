import { ema } from '../gpu/ops/ema.ts';
import { gradientNorm } from '../gpu/ops/adamw.ts';
import {
  OBJECTIVE_STATS_LENGTH, POLICY_STATS, policyObjective, PPO_SETTINGS_LENGTH, ppoSettings, VALUE_STATS, valueLoss,
  type PpoSettings as PpoNumbers,
} from '../gpu/ops/ppo.ts';
import { firstColumn } from '../gpu/ops/sums.ts';
import { clear, copy, record, type Program } from '../gpu/program.ts';
import { addInto } from '../gpu/tape.ts';
import { scratch, stage, stagedAll, upload, vector, type Staged, type Tensor } from '../gpu/tensor.ts';
import { packRows, type PackRow } from '../model/batch.ts';
import type { FlatParameters } from '../model/flat_parameters.ts';
import type { Model } from '../model/load.ts';
import { Passes } from '../model/passes.ts';
import { microBatches } from '../train/micro_batches.ts';
import type { Optimizer } from '../train/optimizer.ts';
import type { LikelihoodTraining } from './likelihood_training.ts';
import { explainedVariance } from './ppo_metrics.ts';
import type { Episode } from './ppo_rollout.ts';

/** What of the rollout a pass of the update reads, beside the tokens: [M] each. */
interface Feeds {
  old: Tensor;
  target: Tensor;
  weights: Tensor;
}

/** A row of the update: an episode's tokens, with its response's places picked. */
type EpisodeRow = PackRow & { episode: Episode };

export interface UpdateOptions {
  temperature: number;
  gamma: number;
  microBatchTokens: number;
  /** Decay of the moving average, 0 without one. */
  emaDecay: number;
  compiling: (done: number, all: number) => void;
}

/** What a minibatch's update found, as means over its real tokens. */
export interface UpdateStats {
  policyLoss: number;
  valueLoss: number;
  ptxLoss: number;
  approxKl: number;
  clipFraction: number;
  valueClipFraction: number;
  entropy: number;
  ratio: number;
  ratioMax: number;
  ratioMin: number;
  explainedVariance: number;
  policyNorm: number;
  ptxNorm: number;
  valueNorm: number;
  finite: boolean;
}

/**
 * One PPO update on a minibatch of episodes (pipeline step 6): the clipped policy objective plus γ times the pretraining
 * likelihood, whose gradients are added up before the one optimiser step; and the clipped value loss with its own optimiser.
 */
export class Update {
  readonly policyPasses: Passes<Feeds>;
  readonly valuePasses: Passes<Feeds>;
  private readonly settings = vector(PPO_SETTINGS_LENGTH);
  private readonly policyStats = vector(OBJECTIVE_STATS_LENGTH);
  private readonly valueStats = vector(OBJECTIVE_STATS_LENGTH);
  private readonly norms = { policy: vector(4), ptx: vector(4) };
  /** The pretraining term's gradient, while the policy's is taken. */
  private readonly held: Tensor[];
  /** The moving average of what is trained of the policy, where there is one. */
  readonly average?: Tensor[];
  private readonly emaRate = vector(1);
  private programs?: { reset: Program; hold: Program; join: Program; average?: Program };

  constructor(private readonly policy: Model, private readonly trained: FlatParameters, private readonly value: Model, private readonly optimizers: { policy: Optimizer; value: Optimizer },
    private readonly pretraining: LikelihoodTraining | undefined, private readonly options: UpdateOptions) {
    const { settings, policyStats, valueStats } = this;
    const feeds = (size: number): Feeds => ({ old: vector(size), target: vector(size), weights: vector(size) });
    this.policyPasses = new Passes(policy.decoder, {
      training: true,
      temperature: options.temperature,
      objective: ({ stats, gradient }) => {
        const io = feeds(stats.rows);
        const logp = scratch(stats.rows, 1, 1);
        firstColumn(stats, logp);
        policyObjective({ logp, oldLogp: io.old, advantages: io.target, weights: io.weights, settings, dLogp: gradient, stats: policyStats });
        return io;
      },
    }, options.compiling);
    this.valuePasses = new Passes(value.decoder, {
      training: true,
      scale: value.scale,
      objective: ({ scores, gradient }) => {
        const io = feeds(scores.rows);
        valueLoss({ values: scores, oldValues: io.old, returns: io.target, weights: io.weights, settings, dValues: gradient, stats: valueStats });
        return io;
      },
    }, options.compiling);
    this.held = pretraining ? trained.like() : [];
    if (options.emaDecay > 0) {
      this.average = trained.like();
      upload(this.emaRate, Float32Array.of(1 - options.emaDecay));
    }
  }

  /** The passes that updates on such minibatches will run. */
  upcoming(minibatches: readonly (readonly PackRow[])[], pretrain: readonly PackRow[] = []) {
    const batches = minibatches.flatMap((rows) => [...microBatches(rows, this.options.microBatchTokens)]);
    return [{ passes: this.policyPasses, batches }, { passes: this.valuePasses, batches }, ...(this.pretraining?.upcoming([pretrain]) ?? [])];
  }

  /** Starts the moving average at the policy's present weights. */
  async startAverage(): Promise<void> {
    if (!this.average) return;
    (await record(() => this.trained.chunks.forEach(({ values }, i) => copy(values, this.average![i]))).ready()).run();
  }

  /** Uploads the numbers that may change from one iteration to the next. */
  configure(numbers: PpoNumbers): void {
    upload(this.settings, ppoSettings(numbers));
  }

  /** Submits one update, the `step`-th of the optimisers (from 1); the result is read later. */
  async submit(step: number, episodes: readonly Episode[], pretrain: readonly PackRow[], rates: { policy: number; value: number }): Promise<() => Promise<UpdateStats>> {
    const { options, policyStats, valueStats, norms } = this;
    const { reset, hold, join, average } = (this.programs ??= await this.record());
    const rows = episodes.map(updateRow);
    const tokens = rows.reduce((sum, r) => sum + r.at.length, 0);
    const parts = [...microBatches(rows, options.microBatchTokens)];
    const [reads, values]: Staged[][] = [[], []];
    reset.run();

    // γ · pretraining likelihood: its gradient is held while the policy's is taken, so that both norms are known.
    const mixed = this.pretraining !== undefined && pretrain.length > 0;
    if (mixed) {
      await this.pretraining!.accumulate(step, [], pretrain, options.gamma);
      hold.run();
    }
    for (const part of parts) {
      const pass = await this.policyPasses.run(packRows(part, this.policy.config),
        ({ extra }) => feed(extra, part, 'logprobs', 'advantages', tokens));
      reads.push(stage(pass.stats));
    }
    join.run();
    await this.optimizers.policy.step(step, rates.policy);
    average?.run();

    for (const part of parts) {
      const pass = await this.valuePasses.run(packRows(part, this.value.config), ({ extra }) => feed(extra, part, 'values', 'returns', tokens));
      values.push(stage(pass.scores));
    }
    await this.optimizers.value.step(step, rates.value);

    const staged = stagedAll([...reads, ...values, stage(policyStats, valueStats, norms.policy, norms.ptx, this.optimizers.policy.norm, this.optimizers.value.norm,
      ...(mixed ? [this.pretraining!.totals] : []))]);
    return async () => {
      const found = (await staged.read()).map((bytes) => new Float32Array(bytes));
      const entropy = parts.reduce((sum, part, i) => sum + entropies(found[i], part), 0) / tokens;
      const valued = parts.flatMap((part, i) => [...found[parts.length + i].subarray(0, picksOf(part))]);
      const [policy, value, policyNorm, ptxNorm, totalNorm, valueNorm, ptx] = found.slice(2 * parts.length);
      return {
        policyLoss: policy[POLICY_STATS.loss],
        valueLoss: value[VALUE_STATS.loss],
        ptxLoss: mixed ? -ptx[4] / options.gamma : NaN,
        approxKl: policy[POLICY_STATS.approxKl2],
        clipFraction: policy[POLICY_STATS.clipFraction],
        valueClipFraction: value[VALUE_STATS.clipFraction],
        entropy,
        ratio: policy[POLICY_STATS.ratio],
        ratioMax: policy[POLICY_STATS.ratioMax],
        ratioMin: policy[POLICY_STATS.ratioMin],
        explainedVariance: explainedVariance(parts.flatMap((part) => part.flatMap(({ episode }) => [...episode.returns])), valued),
        policyNorm: policyNorm[0],
        ptxNorm: mixed ? ptxNorm[0] : NaN,
        valueNorm: valueNorm[0],
        finite: totalNorm[2] === 1 && valueNorm[2] === 1,
      };
    };
  }

  private async record(): Promise<{ reset: Program; hold: Program; join: Program; average?: Program }> {
    const { trained, held, norms, policyStats, valueStats, average } = this;
    const gradients = trained.chunks.map((c) => c.gradients!);
    const programs = {
      reset: record(() => {
        clear(policyStats);
        clear(valueStats);
        held.forEach((t) => clear(t));
      }),
      hold: record(() => {
        gradientNorm({ gradients, out: norms.ptx });
        held.forEach((t, i) => {
          copy(gradients[i], t);
          clear(gradients[i]);
        });
      }),
      join: record(() => {
        gradientNorm({ gradients, out: norms.policy });
        held.forEach((t, i) => addInto(gradients[i], t));
      }),
      average: average && record(() => trained.chunks.forEach(({ values }, i) => ema(average[i], values, this.emaRate))),
    };
    await Promise.all(Object.values(programs).map((p) => p?.ready()));
    return programs;
  }
}

/** An episode as a row whose response tokens are picked, each read at the place before it. */
export function updateRow(episode: Episode): EpisodeRow {
  const { ids, promptIds } = episode;
  const at = Array.from({ length: ids.length - promptIds.length }, (_, i) => promptIds.length + i - 1);
  return { ids, at, targets: at.map((t) => ids[t + 1]), episode };
}

function feed(feeds: Feeds, part: readonly EpisodeRow[], old: 'logprobs' | 'values', target: 'advantages' | 'returns', tokens: number): void {
  const size = feeds.weights.rows;
  const arrays = { old: new Float32Array(size), target: new Float32Array(size), weights: new Float32Array(size) };
  let m = 0;
  for (const { episode } of part) {
    arrays.old.set(episode[old], m);
    arrays.target.set(episode[target], m);
    arrays.weights.fill(1 / tokens, m, m + episode[old].length);
    m += episode[old].length;
  }
  upload(feeds.old, arrays.old);
  upload(feeds.target, arrays.target);
  upload(feeds.weights, arrays.weights);
}

/** What is read of a part's rows. */
const picksOf = (part: readonly EpisodeRow[]): number => part.reduce((sum, { at }) => sum + at.length, 0);

/** Σ of the entropies in a pass's statistics over the part's real picks. */
function entropies(stats: Float32Array, part: readonly EpisodeRow[]): number {
  const picks = picksOf(part);
  let sum = 0;
  for (let m = 0; m < picks; m++) sum += stats[4 * m + 1];
  return sum;
}
