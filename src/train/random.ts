import { philox } from '../gpu/ops/random.ts';

/** What a stream of host random numbers is for: streams never meet, whatever the seed. */
const PURPOSE = { shuffle: 1, initialise: 2, subset: 3, bootstrap: 4, prompts: 5, pretrain: 6, minibatch: 7, head: 8 } as const;
export type Purpose = keyof typeof PURPOSE;

/**
 * A counter-based stream: the same (seed, purpose, a, b) gives the same numbers, so nothing random needs to be saved to
 * resume a run.
 */
export class RandomStream {
  private counter = 0;
  private words: number[] = [];

  constructor(private readonly seed: number, private readonly purpose: Purpose, private readonly a = 0, private readonly b = 0) {}

  /** 32 random bits. */
  bits(): number {
    if (this.words.length === 0) {
      const high = Math.floor(this.seed / 2 ** 32);
      this.words = philox([this.counter++, this.a, this.b, PURPOSE[this.purpose]], [this.seed >>> 0, high ^ 0x52c0ffee]);
    }
    return this.words.pop()!;
  }

  /** In [0, 1), 53 bits. */
  uniform(): number {
    return ((this.bits() >>> 5) * 2 ** 26 + (this.bits() >>> 6)) / 2 ** 53;
  }

  /** A whole number in [0, n). */
  below(n: number): number {
    return Math.floor(this.uniform() * n);
  }

  /** From the standard normal distribution (Box and Muller). */
  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
  }

  /** 0…n−1 in random order (Fisher and Yates). */
  permutation(n: number): Uint32Array {
    const order = Uint32Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }
}
