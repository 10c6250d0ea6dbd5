import { existsSync, readFileSync } from 'node:fs';
import { totalmem } from 'node:os';
import { join } from 'node:path';
import { RunError, UsageError } from '../errors.ts';
import { flush } from '../gpu/backend.ts';
import { gpu } from '../gpu/device.ts';
import { allocatable, deviceMemory } from '../gpu/memory.ts';
import { onPaper } from '../gpu/paper.ts';
import { arena } from '../gpu/arena.ts';
import { arenaBytes } from '../gpu/tensor.ts';
import { type PlaceShape, stepTextures } from '../gpu/mirror_texture.ts';
import type { Head, ModelConfig } from '../model/config.ts';
import type { Decoder } from '../model/decoder.ts';
import { readAtOnce, type FlatParameters } from '../model/flat_parameters.ts';
import type { Model } from '../model/load.ts';
import { parameterCount } from '../model/tensor_plan.ts';
import { defaultMicroBatchTokens } from './micro_batches.ts';

/** Bytes of a model on the device: its weights, and in training gradients and two moments. */
export const modelBytes = ({ weights }: Model): number =>
  weights.bytes + weights.chunks.reduce((sum, { length, gradients }) => sum + (gradients ? 2 * 4 * length : 0), 0);

/** What a run will have on the device. */
export interface MemoryPlan {
  /** The most bytes at once: what is there already, what is to come, and a copy on its way to the host. */
  bytes: number;
  /** Of these, what could not be done without: weights, gradients, moments, caches, and the activations of the largest pass. */
  minimum: number;
  /** Sizes of the buffers that recorded steps share, and shapes of the textures: those that were there, then those to come. */
  shared: readonly number[];
  textures: readonly PlaceShape[];
}

/**
 * Plans a run by recording it on paper: `make` makes what lasts as long as the run, `prepare` records the passes that will
 * run. So whatever a step takes is counted as it is taken: kinds of layers, adapters, dropout, recomputation, size classes.
 * @param saved what is read back for a checkpoint, a part of a chunk at a time
 */
export function planMemory<Work>(make: () => Work, prepare: (work: Work) => void, saved: readonly FlatParameters[]): MemoryPlan {
  flush(); // what was uploaded so far has left its staging buffers
  const there = { slabs: arena().sizes, shapes: stepTextures().shapes };
  const present = deviceMemory().live - arenaBytes() - stepTextures().bytes;
  return onPaper((memory) => {
    arena().beside(there.slabs);
    stepTextures().beside(there.shapes);
    const work = make();
    const lasting = present + memory.live;
    prepare(work);
    const staging = Math.max(0, ...saved.flatMap(({ chunks }) => chunks.map(({ length }) => readAtOnce(length) * 4)));
    const { sizes: shared, most } = arena();
    const { shapes: textures, bytes } = stepTextures();
    return { bytes: present + memory.peak + bytes + shared.reduce((sum, size) => sum + size, 0) + staging, minimum: lasting + most, shared, textures };
  });
}

/** Finds out how much memory there is for training on a GPU: at most 8 GiB, which keep one busy, and half of the system's (an integrated GPU has no other). */
export async function findMemory(): Promise<void> {
  const opened = gpu();
  if (!opened.software) opened.allocatable = await allocatable(opened.device, Math.min(8 * 2 ** 30, totalmem() / 2), 2 ** 30);
}

/** Device memory to stay within where --memory does not say. */
function defaultMemory(): number {
  const { software, allocatable: found } = gpu();
  return found ?? Math.min(4 * 2 ** 30, totalmem() / (software ? 4 : 2));
}

const tooMuch = (what: string, bytes: number, memory: number, instead: string): UsageError =>
  new UsageError(`${what} take ${megabytes(bytes)} of device memory, but ${megabytes(memory)} are allowed`, `raise --memory, or use ${instead}`);

/** How a run's passes are cut to stay within memory. */
export interface PassChoice extends MemoryPlan {
  /** Tokens of one forward and backward pass. */
  microBatchTokens: number;
  /** Layers keep their input only and are computed again in the backward pass. */
  recompute: boolean;
}

interface ChoiceSettings { microBatchTokens?: number; memory?: number; resume?: boolean; out?: string }

/**
 * Tokens of a pass: what --micro-batch-tokens says, what an interrupted run used (the order of sums, and so the last bits, depend
 * on it), or as many as fit --memory, at most what keeps the device busy. Where not even a row of context length fits, the
 * layers are computed again in the backward pass (`decoder.recompute`); a resumed run does as it did before.
 * @param plan the run's memory for passes of so many tokens, with the decoders as they are set
 * @throws UsageError where not even the smallest passes fit
 */
export function choosePasses(settings: ChoiceSettings, decoders: readonly Decoder[], plan: (tokens: number) => MemoryPlan): PassChoice {
  const memory = settings.memory ?? defaultMemory();
  const { tokens: used, recompute: before } = askedFor(settings);
  const most = used ?? defaultMicroBatchTokens();
  const least = used ?? Math.min(most, Math.max(64, ...decoders.map(({ config }) => Math.min(config.context, 1024))));
  const planned = (microBatchTokens: number, recompute: boolean): PassChoice => {
    for (const decoder of decoders) decoder.recompute = recompute;
    try {
      return { microBatchTokens, recompute, ...plan(microBatchTokens) };
    } catch (error) {
      if (error instanceof RunError && microBatchTokens > 64) return { microBatchTokens, recompute, bytes: Infinity, minimum: Infinity, shared: [], textures: [] };
      throw error; // a tensor that is larger than the device allows, however small the passes
    }
  };
  let smallest: PassChoice | undefined;
  for (const recompute of before === undefined ? [false, true] : [before]) {
    const floor = recompute ? Math.min(64, least) : least;
    for (let tokens = most; tokens >= Math.min(floor, most); tokens = Math.floor(tokens / 2)) {
      const choice = (smallest = planned(tokens, recompute));
      if (choice.bytes <= memory || used !== undefined && before !== undefined) return choice;
      if (used !== undefined) break;
    }
  }
  if (used !== undefined) return smallest!; // asked for as it is
  throw tooMuch('the models and one pass', smallest!.bytes, memory, '--lora-rank or a smaller model');
}

/**
 * Refuses a model whose weights, gradients and moments alone are more than `choosePasses` will allow: to be asked before one is drawn, which
 * for a mistyped width takes minutes. Passes that are asked for as they are run whatever the memory.
 * @throws UsageError
 */
export function checkThatFits(settings: ChoiceSettings, config: ModelConfig, head: Head): void {
  const { memory = defaultMemory() } = settings;
  const bytes = parameterCount(config, head) * 16;
  if (bytes > memory && askedFor(settings).tokens === undefined) throw tooMuch('the weights, gradients and moments', bytes, memory, 'a smaller model');
}

/** What says how passes are cut, before memory does: --micro-batch-tokens, or the run that is resumed. */
function askedFor({ microBatchTokens, resume, out }: ChoiceSettings): { tokens?: number; recompute?: boolean } {
  const before = resume && out ? recorded(out) : {};
  return { ...before, tokens: microBatchTokens ?? before.tokens };
}

/**
 * The largest of `most`, half as many and so on, but not fewer than `least`, that stays within `memory` bytes (all that the device allows,
 * where absent): rows side by side or tokens of a pass, on which no result depends. Under `memory`, opens what was planned.
 * @throws UsageError where not even `least` fits
 */
export function mostThatFit(memory: number | undefined, most: number, least: number, plan: (n: number) => MemoryPlan): number {
  for (let n = most; ; n = Math.max(least, Math.floor(n / 2))) {
    try {
      const { bytes, shared, textures } = plan(n);
      if (memory === undefined || bytes <= memory) {
        if (memory !== undefined) reservePlanned({ shared, textures });
        return n;
      }
      if (n <= least) throw tooMuch('the model and its smallest pass', bytes, memory, 'a smaller model');
    } catch (error) {
      if (!(error instanceof RunError) || n <= least) throw error;
    }
  }
}

/** Opens the buffers and textures of a plan: those that the steps then open one after another would be more. */
export function reservePlanned({ shared, textures }: Pick<MemoryPlan, 'shared' | 'textures'>): void {
  arena().reserve(shared);
  stepTextures().reserve(textures);
}

/** Bytes for people. */
export const megabytes = (bytes: number): string =>
  bytes < 2 ** 20 ? `${Math.ceil(bytes / 2 ** 10)} KiB` : `${(bytes / 2 ** 20).toFixed(bytes < 1e8 ? 1 : 0)} MiB`;

function recorded(out: string): { tokens?: number; recompute?: boolean } {
  const path = join(out, 'rlhf.json');
  if (!existsSync(path)) return {};
  try {
    const { micro_batch_tokens: tokens, recompute } = JSON.parse(readFileSync(path, 'utf8')) as { micro_batch_tokens?: unknown; recompute?: unknown };
    return { ...(typeof tokens === 'number' ? { tokens } : {}), ...(typeof recompute === 'boolean' ? { recompute } : {}) };
  } catch {
    return {};
  }
}
