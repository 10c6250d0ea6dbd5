import { RandomStream, type Purpose } from './random.ts';

/**
 * Which items make up each batch of a run: every epoch passes over all of them in its own seeded order (or in the order
 * given), and the last, smaller batch of an epoch is kept. A pure function of the step, so a resumed run needs no state.
 */
export class BatchOrder {
  readonly perEpoch: number;
  readonly totalSteps: number;
  private epoch = -1;
  private order: Uint32Array = new Uint32Array();

  constructor(private readonly count: number, private readonly batchSize: number, epochs: number,
    private readonly options: { shuffle: boolean; seed: number }) {
    this.perEpoch = Math.ceil(count / batchSize);
    this.totalSteps = Math.max(1, Math.round(this.perEpoch * epochs));
  }

  /** Numbers of the items of a 0-based step. */
  batch(step: number): number[] {
    const epoch = Math.floor(step / this.perEpoch);
    if (epoch !== this.epoch) {
      const { shuffle, seed } = this.options;
      this.order = shuffle ? new RandomStream(seed, 'shuffle', epoch).permutation(this.count)
        : Uint32Array.from({ length: this.count }, (_, i) => i);
      this.epoch = epoch;
    }
    const first = (step % this.perEpoch) * this.batchSize;
    return [...this.order.subarray(first, first + this.batchSize)];
  }
}

/**
 * Items taken one by one for as long as a run needs them: pass after pass over all of them, each pass in its own seeded order
 * (or in the order given). A pure function of the place, as BatchOrder is of the step.
 */
export class PassOrder {
  private pass = -1;
  private order: Uint32Array = new Uint32Array();

  constructor(private readonly count: number, private readonly purpose: Purpose,
    private readonly options: { shuffle: boolean; seed: number }) {}

  /** The item at the n-th place (from 0), and the pass that it is in. */
  at(n: number): { item: number; pass: number } {
    const pass = Math.floor(n / this.count);
    const { shuffle, seed } = this.options;
    if (!shuffle) return { item: n % this.count, pass };
    if (pass !== this.pass) {
      this.order = new RandomStream(seed, this.purpose, pass).permutation(this.count);
      this.pass = pass;
    }
    return { item: this.order[n % this.count], pass };
  }
}
