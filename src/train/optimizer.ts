import { adamw, gradientNorm, HYPER_LENGTH, hyperAt } from '../gpu/ops/adamw.ts';
import { narrow } from '../gpu/ops/half.ts';
import { clear, record, type Program } from '../gpu/program.ts';
import { upload, vector, type Tensor } from '../gpu/tensor.ts';
import type { FlatParameters } from '../model/flat_parameters.ts';
import type { Part } from './checkpoint.ts';

export interface AdamSettings {
  adamBeta1: number;
  adamBeta2: number;
  adamEps: number;
  weightDecay: number;
  maxGradNorm: number;
}

/**
 * AdamW over the flat chunks of a model's weights or adapter: gradient norm, clipping, update and zeroing of the gradients in one recorded program,
 * without reading anything back. Decay reaches tensors of two dimensions only.
 */
export class Optimizer {
  /** [norm before clipping, clip coefficient, 1 if all gradients are finite]. */
  readonly norm = vector(4);
  private readonly hyper = vector(HYPER_LENGTH);
  private readonly m: Tensor[];
  private readonly v: Tensor[];
  private program?: Program;

  constructor(readonly name: string, private readonly weights: FlatParameters, private readonly settings: AdamSettings) {
    this.m = weights.like();
    this.v = weights.like();
  }

  async ready(progress?: (done: number, all: number) => void): Promise<void> {
    if (this.program) return;
    const { weights, m, v, norm, hyper, settings } = this;
    this.program = await record(() => {
      gradientNorm({ gradients: weights.chunks.map((c) => c.gradients!), maxNorm: settings.maxGradNorm, out: norm });
      weights.chunks.forEach(({ values, half, gradients, decayCount }, i) => {
        adamw({ values, gradients: gradients!, m: m[i], v: v[i], decayCount }, norm, hyper);
        if (half) narrow(values, half);
        clear(gradients!);
      });
    }).ready(progress);
  }

  /** One update from the gradients that have been added up, as the `step`-th (from 1); zeroes the gradients. */
  async step(step: number, lr: number): Promise<void> {
    await this.ready();
    const { adamBeta1: beta1, adamBeta2: beta2, adamEps: eps, weightDecay } = this.settings;
    upload(this.hyper, hyperAt(step, { lr, beta1, beta2, eps, weightDecay }));
    this.program!.run();
  }

  /** The moments, for checkpoints. */
  get parts(): Part[] {
    return [
      { name: `${this.name}-m`, weights: this.weights, flats: this.m },
      { name: `${this.name}-v`, weights: this.weights, flats: this.v },
    ];
  }
}
