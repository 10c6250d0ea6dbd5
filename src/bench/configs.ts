import { persistent, upload, type Storage } from '../gpu/tensor.ts';
import type { Head, ModelConfig } from '../model/config.ts';
import { Decoder } from '../model/decoder.ts';
import type { Model } from '../model/load.ts';
import { Weights } from '../model/weights.ts';

const gpt2 = (vocabSize: number, width: number, layers: number, heads: number, context: number): ModelConfig => ({
  family: 'gpt2', vocabSize, width, layers, heads, kvHeads: heads, headDim: width / heads, hidden: 4 * width, context, norm: 'layer',
  normEps: 1e-5, positions: 'learned', ropeTheta: 1e4, activation: 'gelu_new', gated: false,
  bias: { qkv: true, attnOut: true, mlp: true }, tied: true, initializerRange: 0.02,
});

/** 940,800 parameters. */
export const SMALL_GPT = gpt2(1024, 128, 4, 4, 128);

/** GPT-2 of 124 million parameters. */
export const GPT2 = gpt2(50257, 768, 12, 12, 1024);

/** The quickstart's model: 263,744 parameters. */
export const SMALL_LLAMA: ModelConfig = {
  family: 'llama', vocabSize: 1024, width: 64, layers: 4, heads: 4, kvHeads: 4, headDim: 16, hidden: 172, context: 128, norm: 'rms',
  normEps: 1e-5, positions: 'rope', ropeTheta: 1e4, activation: 'silu', gated: true,
  bias: { qkv: false, attnOut: false, mlp: false }, tied: true, initializerRange: 0.02,
};

/** A model of pseudo-random weights, made quickly: only times are wanted of it. */
export function untrained(config: ModelConfig, { trainable, head = 'lm', dtype }: { trainable: boolean; head?: Head; dtype?: Storage }): Model {
  const weights = new Weights(config, head, trainable, dtype);
  const planned = new Map(weights.plan.map((t) => [t.name, t]));
  let state = 1;
  weights.load((name) => {
    const { shape, init } = planned.get(name)!;
    const values = new Float32Array(shape.reduce((product, n) => product * n, 1));
    if (init === 'ones') values.fill(1);
    else if (init !== 'zeros') {
      for (let i = 0; i < values.length; i++) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        values[i] = (state / 2 ** 32 - 0.5) * 0.07; // a standard deviation of 0.02
      }
    }
    return values;
  });
  const scale = persistent(2, 1, 1);
  upload(scale, Float32Array.of(1, 0));
  return { dir: '', config, decoder: new Decoder(config, weights), weights, rewardGain: 1, rewardBias: 0, scale };
}
