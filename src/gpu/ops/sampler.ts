import randomSource from '../../../kernels/random.wgsl';
import source from '../../../kernels/sampler.wgsl';
import { launch } from '../program.ts';
import type { Tensor } from '../tensor.ts';
import { type Lanes, wideKernel, wideLanes } from './reduction.ts';

/** How tokens are drawn. */
export interface SamplerSettings {
  /** Divides the logits; 0 is greedy. */
  temperature: number;
  /** Only the k largest logits, ties of the k-th included; 0: all. */
  topK: number;
  /** Drops the least likely tokens while their total probability stays within 1 − p; 1: none. */
  topP: number;
  /** Integers below 2³²: the Philox key. */
  seed: number;
  iteration: number;
}

/** Length of the settings vector (u32). */
export const SAMPLER_SETTINGS_LENGTH = 8;

/** The settings as `sample` reads them; its vector may be written anew before any run of a recorded step. */
export function samplerSettings({ temperature, topK, topP, seed, iteration }: SamplerSettings): Uint32Array {
  if (!(temperature >= 0) || !(topP > 0))
    throw new Error(`temperature ${temperature} or top-p ${topP} is out of range`);
  const bits = new Uint32Array(SAMPLER_SETTINGS_LENGTH);
  new Float32Array(bits.buffer).set([temperature, topP]);
  bits.set([topK, seed, iteration], 2);
  return bits;
}

/**
 * Draws one token a row: temperature, then top-k, then top-p on what is left, as transformers' generate does.
 * logits [S,V]; keys [S,4] u32 (stride 4): what identifies the draw, say row of the input, sample index, position, 0;
 * tokens [S] u32 and logprobs [S] out: the log-probability under softmax(logits/temperature) before top-k and top-p
 * (greedy: under softmax(logits)). A row with a logit that is NaN or +∞ gets token 0xffffffff. A row's result depends on its own logits, key and settings only.
 */
export function sample(
  io: { logits: Tensor; keys: Tensor; settings: Tensor; tokens: Tensor; logprobs: Tensor },
  lanes: Lanes = wideLanes(),
): void {
  const { rows, cols, stride } = io.logits;
  if (rows === 0) return;
  const vec4s = stride / 4;
  launch(
    wideKernel('sampler', `${source}\n${randomSource}`, lanes),
    [io.logits, io.keys, io.settings, io.tokens, io.logprobs],
    [cols, vec4s, Math.ceil(vec4s / lanes.workgroup), 30],
    [rows],
  );
}
