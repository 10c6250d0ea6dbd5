import { gather } from '../gpu/ops/gather.ts';
import { scalarHead } from '../gpu/ops/scalar_head.ts';
import { likelihoodGradient, weightedSum } from '../gpu/ops/sums.ts';
import { tokenLogprob } from '../gpu/ops/token_logprob.ts';
import { record, type Program } from '../gpu/program.ts';
import { Tape } from '../gpu/tape.ts';
import { persistent, vector, type Tensor } from '../gpu/tensor.ts';
import { BatchTensors, type BatchShape, type PackedBatch } from './batch.ts';
import type { Decoder, Join } from './decoder.ts';

/** The tensors of one recorded pass: what is uploaded before it runs, and what it leaves. */
export interface PassTensors {
  input: BatchTensors;
  /** Language model: [M,4] = log-probability of the target, entropy, 1 if it is the most likely, log-sum-exp. */
  stats: Tensor;
  /** Reward or value model: [M] one number a pick. */
  scores: Tensor;
  /** Gradient with respect to the log-probabilities or scores [M], between forward and backward. */
  gradient: Tensor;
}

/** A recorded pass over batches of one shape. */
export interface Pass<Extra = unknown> extends PassTensors {
  program: Program<unknown>;
  extra: Extra;
}

export interface PassOptions<Extra> {
  temperature?: number;
  /** (gain, bias) of a reward or value model. */
  scale?: Tensor;
  join?: (input: BatchTensors) => Join;
  /** Takes the gradient: `objective` then leads from `stats` or `scores` to `gradient`. */
  training?: boolean;
  /** Records what stands after the forward pass (and before the backward). */
  objective?: (pass: PassTensors) => Extra;
}

/** Recorded passes of one kind over one model, made when a batch of a new shape comes. */
export class Passes<Extra = unknown> {
  private readonly made = new Map<string, Promise<Pass<Extra>>>();

  constructor(readonly decoder: Decoder, private readonly options: PassOptions<Extra> = {},
    private readonly progress?: (done: number, all: number) => void) {}

  /** The pass for a shape: recorded, compiled and ready to run. */
  async for(shape: BatchShape): Promise<Pass<Extra>> {
    const key = `${shape.tokens}/${shape.picks}/${shape.rows}`;
    let pass = this.made.get(key);
    if (!pass) this.made.set(key, (pass = this.make(shape)));
    return pass;
  }

  /** Uploads a batch and runs its pass; the results lie in the returned pass until the next run of that shape. */
  async run(batch: PackedBatch, feed?: (pass: Pass<Extra>) => void): Promise<Pass<Extra>> {
    const pass = await this.for(batch.shape);
    pass.input.upload(batch);
    feed?.(pass);
    pass.program.run();
    return pass;
  }

  private async make(shape: BatchShape): Promise<Pass<Extra>> {
    const { decoder, options } = this;
    const training = options.training ?? false;
    const input = new BatchTensors(shape, decoder.config, training);
    const reward = decoder.weights.head === 'reward';
    const tensors: PassTensors = {
      input,
      stats: reward ? vector(1) : persistent(shape.picks, 4),
      scores: reward ? vector(shape.picks) : vector(1),
      gradient: vector(training ? shape.picks : 1),
    };
    const program = record(() => {
      const tape = new Tape(training, decoder.weights.storage);
      const hidden = decoder.hidden(tape, input.tokens, { join: options.join?.(input) });
      const picked = gather(tape, hidden, input.index, input.inverse); // [M,C]
      tape.done(hidden);
      if (reward) scalarHead(tape, picked, decoder.scalarHead, options.scale!, tensors.scores, tensors.gradient);
      else {
        tokenLogprob(tape, picked, decoder.unembedding, input.targets, tensors.stats,
          { temperature: options.temperature, dLogp: tensors.gradient });
      }
      tape.done(picked);
      const extra = options.objective?.(tensors);
      if (training) tape.backward();
      return extra;
    });
    await program.ready(this.progress);
    return { ...tensors, program, extra: program.result as Extra };
  }
}

/** The objective of supervised training: weighted negative log-likelihood, its sums added to `totals` [2,4]. */
export const likelihood = (totals: Tensor) => ({ input, stats, gradient }: PassTensors): void => {
  weightedSum(stats, input.weights, totals);
  likelihoodGradient(input.weights, gradient);
};

/** The same sums without a gradient, for evaluation. */
export const likelihoodSums = (totals: Tensor) => ({ input, stats }: PassTensors): void => {
  weightedSum(stats, input.weights, totals);
};
