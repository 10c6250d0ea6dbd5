import { RandomStream } from './random.ts';

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
