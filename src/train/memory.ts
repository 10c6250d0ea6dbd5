import { existsSync, readFileSync } from 'node:fs';
import { totalmem } from 'node:os';
import { join } from 'node:path';
import { RunError } from '../errors.ts';
import { gpu } from '../gpu/device.ts';
import type { Model } from '../model/load.ts';

/** The most bytes of logits that exist at once (see tokenLogprob). */
const LOGIT_BYTES = 64 * 2 ** 20;

/** Bytes of a model on the device: its weights, and in training gradients and two moments. */
export const modelBytes = ({ weights }: Model): number =>
  weights.bytes + weights.chunks.reduce((sum, { length, gradients }) => sum + (gradients ? 2 * 4 * length : 0), 0);

/**
 * Bytes of activations that one training pass over `tokens` tokens, `picks` of them with logits, holds at its peak; with
 * `decoder.recompute` each layer keeps its input only.
 */
export function activationBytes({ config, weights, decoder }: Model, tokens: number, picks: number, recompute = decoder.recompute): number {
  const { width, hidden, heads, kvHeads, headDim, layers, vocabSize, gated } = config;
  const qkv = (heads + 2 * kvHeads) * headDim;
  // What each layer keeps for its gradient: norms' inputs and outputs, q k v, attention output, MLP.
  const perLayer = 4 * width + qkv + heads * headDim + (gated ? 3 : 2) * hidden + 2 * heads + 8;
  const inBackward = 3 * width + qkv + (gated ? 3 : 1) * hidden;
  const head = weights.head === 'reward' ? picks * 2 * width * 4
    : Math.min(picks * vocabSize * 4, LOGIT_BYTES) + picks * (2 * width + 8) * 4;
  const kept = recompute ? layers * width + perLayer : layers * perLayer;
  return 4 * tokens * (kept + 2 * width) + Math.max(4 * tokens * inBackward, head);
}

/** Device memory to stay within where --memory does not say: WebGPU does not tell how much is free. */
function defaultMemory(): number {
  const { software, adapter } = gpu();
  if (software) return Math.min(4 * 2 ** 30, totalmem() / 4);
  // An adapter that binds 2 GiB and more at once is a discrete GPU with 8 GiB or more.
  return adapter.limits.maxStorageBufferBindingSize >= 2 ** 31 - 4 ? 8 * 2 ** 30 : 4 * 2 ** 30;
}

/**
 * Tokens of one forward and backward pass: what --micro-batch-tokens says, what an interrupted run used (the order of sums,
 * and so the last bits, depend on it), or as many as fit --memory beside the models, at most what keeps the device busy.
 * Where a row of context length does not fit, the layers are computed again in the backward pass (`decoder.recompute`).
 * @param trained the models whose activations are kept, one at a time
 * @param models all models on the device at once
 * @throws RunError where not even one row of context length fits
 */
export function chooseMicroBatchTokens(settings: { microBatchTokens?: number; memory?: number; resume?: boolean; out?: string },
  trained: readonly Model[], models: readonly Model[] = trained): number {
  const memory = settings.memory ?? defaultMemory();
  const left = memory - models.reduce((sum, m) => sum + modelBytes(m), 0);
  const need = (tokens: number, recompute: boolean): number => Math.max(...trained.map((m) => activationBytes(m, tokens, tokens, recompute)));
  const used = settings.microBatchTokens ?? (settings.resume && settings.out ? recorded(settings.out) : undefined);
  const row = Math.min(...trained.map((m) => m.config.context));
  const recompute = need(Math.min(used ?? row, 1024), false) > left;
  for (const { decoder } of trained) decoder.recompute = recompute;
  if (used !== undefined) return used;
  let tokens = gpu().software ? 2048 : 16384;
  while (tokens > 64 && need(tokens, recompute) > left) tokens = Math.floor(tokens / 2);
  if (need(tokens, recompute) > left) {
    const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(2)} GiB`;
    throw new RunError(`the models and one pass take ${gib(memory - left + need(tokens, recompute))} of device memory, but ${gib(memory)} are allowed`,
      'raise --memory, or use --lora-rank or a smaller model');
  }
  return tokens;
}

function recorded(out: string): number | undefined {
  const path = join(out, 'rlhf.json');
  if (!existsSync(path)) return undefined;
  try {
    const value = (JSON.parse(readFileSync(path, 'utf8')) as { micro_batch_tokens?: unknown }).micro_batch_tokens;
    return typeof value === 'number' ? value : undefined;
  } catch {
    return undefined;
  }
}
