import type { RunContext } from '../context.ts';
import { packAll, type PackedRow } from '../data/pack.ts';
import { clear, copy, record, type Program } from '../gpu/program.ts';
import { download, persistent, upload, vector, type Tensor } from '../gpu/tensor.ts';
import { packRows, type PackRow } from '../model/batch.ts';
import type { FlatParameters } from '../model/flat_parameters.ts';
import type { Model } from '../model/load.ts';
import { likelihood, likelihoodSums, Passes } from '../model/passes.ts';
import { residualDropout } from '../model/residual_dropout.ts';
import { microBatches } from '../train/micro_batches.ts';
import { compileProgress } from '../train/session.ts';

/** Tokens of a row whose likelihood counts: those with mask 1, each predicted from the place before it. */
export function likelihoodRow(ids: Int32Array, mask: Uint8Array, key: number): PackRow {
  const at: number[] = [];
  for (let t = 1; t < ids.length; t++) if (mask[t]) at.push(t - 1);
  return { ids, at, targets: at.map((t) => ids[t + 1]), key };
}

/** A packed row of documents: every token counts but the first of each document. */
export function documentRow({ ids, segments }: PackedRow, key: number): PackRow {
  const at: number[] = [];
  for (const [start, length] of segments) for (let t = 1; t < length; t++) at.push(start + t - 1);
  return { ids, segments, at, targets: at.map((t) => ids[t + 1]), key };
}

/** Demonstrations packed into rows of context length, attention kept apart. */
export function packedDemonstrations(rows: readonly PackRow[], context: number): PackRow[] {
  const packed: PackRow[] = [];
  let open: PackRow[] = [];
  const close = (): void => {
    if (open.length === 0) return;
    const ids: number[] = [];
    const segments: [number, number][] = [];
    const at: number[] = [];
    const targets: number[] = [];
    for (const row of open) {
      const start = ids.length;
      segments.push([start, row.ids.length]);
      for (let i = 0; i < row.at.length; i++) {
        at.push(start + row.at[i]);
        targets.push(row.targets![i]);
      }
      for (let i = 0; i < row.ids.length; i++) ids.push(row.ids[i]);
    }
    packed.push({ ids, segments, at, targets, key: packed.length });
    open = [];
  };
  let length = 0;
  for (const row of rows) {
    if (length + row.ids.length > context) {
      close();
      length = 0;
    }
    open.push(row);
    length += row.ids.length;
  }
  close();
  return packed;
}

/** Documents as packed rows of the context's length. */
export const documentRows = (documents: readonly ArrayLike<number>[], context: number): PackRow[] =>
  packAll(documents, context).map((row, i) => documentRow(row, i));

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
  private reset?: Program;

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
    this.reset ??= await record(() => clear(this.totals)).ready();
    this.reset.run();
    if (this.options.dropout > 0) upload(this.state, Uint32Array.of(this.options.seed, step));
    const counted = [...weighted(rows, 'weights', 1), ...weighted(more, 'weights2', weight)];
    for (const part of this.parts(counted)) {
      await this.training.run(packRows(part, this.model.config));
    }
  }

  /** The passes that steps over these batches, and an evaluation over `heldOut`, will run. */
  upcoming(batches: readonly (readonly PackRow[])[], heldOut: readonly PackRow[] = []) {
    return [{ passes: this.training, batches: batches.flatMap((rows) => this.parts(rows)) },
      { passes: this.evaluation, batches: this.parts(heldOut) }];
  }

  private parts<Row extends PackRow>(rows: readonly Row[]): Row[][] {
    return microBatches(rows, this.options.microBatchTokens);
  }

  /** Mean negative log-likelihood and accuracy over the counted tokens of rows. */
  async evaluate(rows: readonly PackRow[]): Promise<{ loss: number; accuracy: number; tokens: number }> {
    const tokens = rows.reduce((sum, r) => sum + r.at.length, 0);
    let loss = 0;
    let correct = 0;
    const reset = await record(() => clear(this.evalTotals)).ready();
    for (const part of this.parts(weighted(rows, 'weights', 1, 1))) {
      reset.run();
      await this.evaluation.run(packRows(part, this.model.config));
      // Sums of a pass are added up in double precision here, so that the mean of many rows keeps its digits.
      const [sums] = await download(this.evalTotals);
      const [logp, , hits] = new Float32Array(sums);
      loss -= logp;
      correct += hits;
    }
    return { loss: loss / tokens, accuracy: correct / tokens, tokens };
  }
}

/** The rows with one weight at every pick, `total` over all of them (or `each` a pick). */
function weighted(rows: readonly PackRow[], kind: 'weights' | 'weights2', total: number, each?: number): PackRow[] {
  const picks = rows.reduce((sum, r) => sum + r.at.length, 0);
  const weight = each ?? total / Math.max(1, picks);
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
