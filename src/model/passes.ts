import { gather } from '../gpu/ops/gather.ts';
import { scalarHead } from '../gpu/ops/scalar_head.ts';
import { likelihoodGradient, weightedSum } from '../gpu/ops/sums.ts';
import { tokenLogprob } from '../gpu/ops/token_logprob.ts';
import { copyWeightsInPassing, record, type Program } from '../gpu/program.ts';
import { Tape } from '../gpu/tape.ts';
import { destroy, persistent, Tensor, vector } from '../gpu/tensor.ts';
import { BatchTensors, shapeKey, shapeOf, type BatchShape, type PackedBatch, type PackRow } from './batch.ts';
import type { Decoder, Join } from './decoder.ts';
import { Recent } from './recent.ts';

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

/** Passes kept of each kind: ragged rows make more shapes than a long run should hold commands and tensors for. */
export const MOST_PASSES = 64;

/** Tokens of a row that is a short one: a word or two in a prompt, and an answer as long. */
const SHORT_ROW = 8;

/** Tokens of a pass beside whose products a copy of each weight takes less than a hundredth of the time. */
const MANY_TOKENS = 256;

/** Recorded passes of one kind over one model, made when a batch of a new shape comes. */
export class Passes<Extra = unknown> {
  private readonly made = new Recent<Promise<Pass<Extra>>>(MOST_PASSES, (pass) => void pass.then((old) => this.dispose(old)));
  /** Input tensors within which later ones lie where they are large enough. */
  private inputs?: BatchTensors;
  /** Tokens of all batches that have run, and what they were rounded up to. */
  readonly ran = { tokens: 0, rounded: 0 };

  constructor(readonly decoder: Decoder, private readonly options: PassOptions<Extra> = {},
    private readonly progress?: (done: number, all: number) => void) {}

  /** Makes the input tensors that those of all batches of these shapes lie within; to be called before the first pass. */
  hold(shapes: readonly BatchShape[]): void {
    const most = (key: keyof BatchShape): number => Math.max(...shapes.map((shape) => shape[key]));
    const { decoder, options } = this;
    this.inputs ??= new BatchTensors({ tokens: most('tokens'), picks: most('picks'), rows: most('rows') }, decoder.config, options.training ?? false);
  }

  /** The pass for a shape: recorded, compiled and ready to run. */
  for(shape: BatchShape): Promise<Pass<Extra>> {
    return this.made.get(shapeKey(shape), () => this.make(shape));
  }

  /** Uploads a batch and runs its pass; the results lie in the returned pass until the next run of that shape. */
  async run(batch: PackedBatch, feed?: (pass: Pass<Extra>) => void): Promise<Pass<Extra>> {
    const pass = await this.for(batch.shape);
    pass.input.upload(batch);
    feed?.(pass);
    pass.program.run();
    this.ran.tokens += batch.tokens;
    this.ran.rounded += batch.shape.tokens;
    return pass;
  }

  private dispose({ program, input, stats, scores, gradient, extra }: Pass<Extra>): void {
    program.discard();
    input.dispose();
    const own = extra && typeof extra === 'object' ? Object.values(extra).filter((value) => value instanceof Tensor) : [];
    destroy(stats, scores, gradient, ...own);
  }

  private async make(shape: BatchShape): Promise<Pass<Extra>> {
    const { decoder, options } = this;
    const training = options.training ?? false;
    // As many tokens may come in more rows.
    this.hold([shape, { ...shape, rows: Math.ceil(shape.tokens / SHORT_ROW) }]);
    const input = new BatchTensors(shape, decoder.config, training, this.inputs!.covers(shape) ? this.inputs : undefined);
    const reward = decoder.weights.head === 'reward';
    const tensors: PassTensors = {
      input,
      stats: reward ? vector(1) : persistent(shape.picks, 4),
      scores: reward ? vector(shape.picks) : vector(1),
      gradient: vector(training ? shape.picks : 1),
    };
    const program = record(() => {
      if (shape.tokens >= MANY_TOKENS) copyWeightsInPassing();
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

/** Passes and batches that they will run, looked at once. */
export interface Upcoming {
  passes: { for(shape: BatchShape): Promise<unknown> };
  batches: Iterable<readonly PackRow[]>;
}

/**
 * Records the largest pass of each kind, the largest of all first: the memory that it takes serves all smaller ones, whereas
 * growing shapes would each open another buffer.
 */
export async function reserve(upcoming: readonly Upcoming[]): Promise<void> {
  await Promise.all(recordLargest(upcoming.map(withShapes)));
}

/** Records all these passes, as many as are kept, as a run will come to do: for planning, on paper. */
export function prepare(upcoming: readonly Upcoming[]): void {
  const all = upcoming.map(withShapes);
  void recordLargest(all);
  for (const { passes, shapes } of all) for (const shape of shapes.slice(0, MOST_PASSES)) void passes.for(shape);
}

type Shaped = Pick<Upcoming, 'passes'> & { shapes: BatchShape[] };

function recordLargest(all: readonly Shaped[]): Promise<unknown>[] {
  const largest = all.flatMap(({ passes, shapes }) => shapes.slice(0, 1).map((shape) => ({ passes, shape })));
  largest.sort((a, b) => b.shape.tokens - a.shape.tokens);
  return largest.map(({ passes, shape }) => passes.for(shape));
}

/** The different shapes of the batches, the largest first. */
function withShapes({ passes, batches }: Upcoming): Shaped {
  const shapes = new Map<string, BatchShape>();
  for (const rows of batches) {
    const shape = shapeOf(rows);
    shapes.set(shapeKey(shape), shape);
  }
  return { passes, shapes: [...shapes.values()].sort((a, b) => b.tokens - a.tokens || b.picks - a.picks || b.rows - a.rows) };
}

/** Padding that passes have run over, for each real token: 0.05 where 105 tokens were computed for 100; 0 where none has run. */
export function paddingShare(...passes: readonly Pick<Passes, 'ran'>[]): number {
  const sum = (key: 'tokens' | 'rounded'): number => passes.reduce((total, { ran }) => total + ran[key], 0);
  const tokens = sum('tokens');
  return tokens === 0 ? 0 : Number((sum('rounded') / tokens - 1).toFixed(4));
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
