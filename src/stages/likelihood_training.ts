import type { RunContext } from '../context.ts';
import { copy, record, type Program } from '../gpu/program.ts';
import { download, persistent, upload, vector, type Tensor } from '../gpu/tensor.ts';
import { packRows, type PackRow } from '../model/batch.ts';
import type { FlatParameters } from '../model/flat_parameters.ts';
import type { Model } from '../model/load.ts';
import { likelihood, likelihoodSums, Passes, type Upcoming } from '../model/passes.ts';
import { residualDropout } from '../model/residual_dropout.ts';
import { microBatches, readingTokens, tokensOf } from '../train/micro_batches.ts';
import { compileProgress } from '../train/session.ts';

/** Sums before a step. */
const NOTHING = new Float32Array(2 * 4);

/**
 * Forward and backward passes of the negative log-likelihood, for supervised fine-tuning, pretraining, and the pretraining
 * term of PPO. The means are over the tokens of the whole batch, however it is split into passes.
 */
export class LikelihoodTraining {
  /** [2,4] sums of the step, weighted: log-probability, entropy, correctness, log-sum-exp; for both kinds of rows. */
  readonly totals = persistent(2, 4);
  private readonly state = vector(2);
  private readonly evalTotals = persistent(2, 4);
  readonly training: Passes<void>;
  private readonly evaluation: Passes<void>;
  /** Tokens of the largest training pass of those planned. */
  private largest = 0;

  constructor(private readonly model: Model, private readonly options: { dropout: number; seed: number; microBatchTokens: number },
    context: RunContext) {
    const compiling = compileProgress(context);
    const join = options.dropout > 0 ? residualDropout(options.dropout, this.state) : undefined;
    this.training = new Passes(model.decoder, { training: true, join, objective: likelihood(this.totals) }, compiling);
    this.evaluation = new Passes(model.decoder, { objective: likelihoodSums(this.evalTotals) }, compiling);
  }

  /**
   * Adds to the gradients those of mean NLL(rows) + `weight`·mean NLL(more); `totals` then holds the sums behind both means.
   * Step numbers make the dropout masks.
   */
  async accumulate(step: number, rows: readonly PackRow[], more: readonly PackRow[] = [], weight = 1): Promise<void> {
    upload(this.totals, NOTHING);
    if (this.options.dropout > 0) upload(this.state, Uint32Array.of(this.options.seed, step));
    const counted = [...weighted(rows, 'weights', 1), ...weighted(more, 'weights2', weight)];
    for (const part of microBatches(counted, this.options.microBatchTokens)) {
      await this.training.run(packRows(part, this.model.config));
    }
  }

  /** The passes that steps over these batches, and then an evaluation over `heldOut`, will run. */
  upcoming(batches: Iterable<Iterable<PackRow>>, heldOut: Iterable<PackRow> = []): Upcoming[] {
    return [{ passes: this.training, batches: this.trainingParts(batches) }, { passes: this.evaluation, batches: this.evaluationParts(heldOut) }];
  }

  private *trainingParts(batches: Iterable<Iterable<PackRow>>): Generator<PackRow[]> {
    for (const rows of batches) {
      for (const part of microBatches(rows, this.options.microBatchTokens)) {
        this.largest = Math.max(this.largest, tokensOf(part));
        yield part;
      }
    }
  }

  private *evaluationParts(rows: Iterable<PackRow>): Generator<PackRow[]> {
    yield* microBatches(rows, readingTokens(this.options.microBatchTokens, this.largest));
  }

  /** Mean negative log-likelihood and accuracy over the counted tokens of rows. */
  async evaluate(rows: Iterable<PackRow>): Promise<{ loss: number; accuracy: number; tokens: number }> {
    let [loss, correct, tokens] = [0, 0, 0];
    for (const part of this.evaluationParts(rows)) {
      upload(this.evalTotals, NOTHING);
      await this.evaluation.run(packRows(weighted(part, 'weights', 1, 1), this.model.config));
      // Sums of a pass are added up in double precision here, so that the mean of many rows keeps its digits.
      const [sums] = await download(this.evalTotals);
      const [logp, , hits] = new Float32Array(sums);
      loss -= logp;
      correct += hits;
      tokens += picksOf(part);
    }
    return { loss: loss / tokens, accuracy: correct / tokens, tokens };
  }
}

const picksOf = (rows: readonly PackRow[]): number => rows.reduce((sum, { at }) => sum + at.length, 0);

/** The rows with one weight at every pick, `total` over all of them (or `each` a pick). */
function weighted(rows: readonly PackRow[], kind: 'weights' | 'weights2', total: number, each?: number): PackRow[] {
  const weight = each ?? total / Math.max(1, picksOf(rows));
  return rows.map((row) => ({ ...row, [kind]: new Float32Array(row.at.length).fill(weight) }));
}

/** Keeps a copy of what is trained on the device: the best epoch's, until a better one comes. */
export class KeptWeights {
  readonly flats: Tensor[];
  private program?: Program;

  constructor(private readonly parameters: FlatParameters) {
    this.flats = parameters.like();
  }

  async keep(): Promise<void> {
    this.program ??= await record(() => this.parameters.chunks.forEach(({ values }, i) => copy(values, this.flats[i]))).ready();
    this.program.run();
  }
}
