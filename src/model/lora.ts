import { UsageError } from '../errors.ts';
import { ADAPTER_SCORE, adapterTensorName } from '../files/adapter.ts';
import { writeAdapter } from '../files/adapter_write.ts';
import { show } from '../files/json.ts';
import { submit } from '../gpu/backend.ts';
import type { LowRank } from '../gpu/ops/low_rank.ts';
import { pad4, type Tensor } from '../gpu/tensor.ts';
import { RandomStream } from '../train/random.ts';
import type { Family, Head, PlannedTensor } from './config.ts';
import type { Adapter } from './decoder.ts';
import { FlatParameters, type Block, type NamedTensor } from './flat_parameters.ts';
import type { Model } from './load.ts';
import { fuse, type Weights } from './weights.ts';

export interface LoraSettings {
  rank: number;
  alpha: number;
  /** Last parts of the names of the matrices that get an update (PEFT's target_modules); `all-linear` for all but the head. */
  targets?: readonly string[];
  seed: number;
}

/** The attention projections. GPT-2's MLP has a c_proj too, hence two parts. */
const DEFAULT_TARGETS: Readonly<Record<Family, readonly string[]>> = {
  gpt2: ['c_attn', 'attn.c_proj'],
  llama: ['q_proj', 'k_proj', 'v_proj', 'o_proj'],
  qwen2: ['q_proj', 'k_proj', 'v_proj', 'o_proj'],
};

/** The matrices of a weight block that have an update, in the order of their rows. */
interface Fused {
  key: string;
  out: number;
  input: number;
  members: { name: string; firstRow: number; rows: number }[];
}

/**
 * A trainable low-rank adapter (LoRA): for matrices fused along their outputs one A [n·rank, in] and one block-diagonal
 * B [out, n·rank], and the head of a reward model as a whole. Named as PEFT names them, laid out in flat chunks like
 * Weights, so that optimisers and checkpoints treat both alike.
 */
export class LoraWeights extends FlatParameters implements Adapter {
  readonly targets: readonly string[];
  readonly rank: number;
  readonly alpha: number;
  private readonly updates = new Map<string, LowRank>();

  /** @throws UsageError for a target that names no matrix */
  constructor(weights: Weights, settings: LoraSettings) {
    const { rank, alpha } = settings;
    const targets = settings.targets ?? DEFAULT_TARGETS[weights.config.family];
    const fused = fusedTargets(weights, targets);
    const { plan, blocks } = layOut(fused, rank, weights);
    super(plan, blocks, true);
    this.rank = rank;
    this.alpha = alpha;
    this.targets = targets.includes('all-linear') ? modulesOf(fused) : targets;
    for (const { key, out, members } of fused) {
      const whole = members.length === 1 && members[0].rows === out;
      this.updates.set(key, {
        a: this.get(`${key}.lora_A`),
        b: this.get(`${key}.lora_B`),
        scale: alpha / rank,
        ...(whole ? {} : { blocks: { rank, rows: members.map((m) => [m.firstRow, m.firstRow + m.rows] as const) } }),
      });
    }
    this.initialise(settings.seed);
    const [own, base] = [this.find('score.weight'), weights.find('score.weight')];
    if (own && base) copyNow(base.value, own.value);
  }

  update(key: string): LowRank | undefined {
    return this.updates.get(key);
  }

  /** Keys of the weights that have an update. */
  get keys(): Iterable<string> {
    return this.updates.keys();
  }

  /** A uniform in ±1/√in, which is PEFT's kaiming_uniform with a = √5; B zero: the model is the same at first. */
  private initialise(seed: number): void {
    const index = new Map(this.plan.map(({ name }, i) => [name, i]));
    const shapes = new Map(this.plan.map(({ name, shape }) => [name, shape]));
    this.load((name) => {
      const shape = shapes.get(name)!;
      const values = new Float32Array(shape[0] * shape[1]);
      if (!name.endsWith('.lora_A.weight')) return values;
      const random = new RandomStream(seed, 'initialise', index.get(name)!, 1);
      const bound = 1 / Math.sqrt(shape[1]);
      for (let i = 0; i < values.length; i++) values[i] = (2 * random.uniform() - 1) * bound;
      return values;
    });
  }
}

function isTarget(module: string, targets: readonly string[]): boolean {
  return targets.some((target) => target === 'all-linear' || module === target || module.endsWith(`.${target}`));
}

const isMatrix = ({ kind, name }: PlannedTensor): boolean => kind === 'matrix' && !/^(score|lm_head)\./.test(name);
const moduleOf = (name: string): string => name.replace(/\.weight$/, '');

function fusedTargets({ plan }: Weights, targets: readonly string[]): Fused[] {
  const matrices = plan.filter(isMatrix);
  for (const target of targets) {
    if (matrices.some(({ name }) => isTarget(moduleOf(name), [target]))) continue;
    const known = [...new Set(matrices.map(({ name }) => moduleOf(name).split('.').at(-1)!))];
    throw new UsageError(`--lora-targets: ${show(target)} names no matrix of this model`, `it has ${known.join(', ')}`);
  }
  if (targets.length === 0) throw new UsageError('--lora-targets: names no matrix');
  const planned = new Map(matrices.map((tensor) => [tensor.name, tensor]));
  const fused: Fused[] = [];
  for (const { key, parts, rows, cols } of fuse(matrices)) {
    const chosen = parts.filter(({ name }) => isTarget(moduleOf(name), targets));
    if (chosen.length === 0) continue;
    const inOut = planned.get(chosen[0].name)!.layout === 'in_out';
    const [out, input] = inOut ? [cols, rows] : [rows, cols];
    // [in, out] matrices are never fused: theirs is the only part.
    const members = chosen.map((part) => (inOut ? { name: part.name, firstRow: 0, rows: out } : part));
    fused.push({ key, out, input, members });
  }
  return fused;
}

function layOut(fused: Fused[], rank: number, { head, config }: Weights): { plan: NamedTensor[]; blocks: Block[] } {
  const plan: NamedTensor[] = [];
  const blocks: Block[] = [];
  for (const { key, out, input, members } of fused) {
    const total = members.length * rank;
    const a: Block = { key: `${key}.lora_A`, parts: [], rows: total, cols: input, stride: pad4(input), decay: true };
    const b: Block = { key: `${key}.lora_B`, parts: [], rows: out, cols: total, stride: pad4(total), decay: true };
    members.forEach(({ name, firstRow, rows }, i) => {
      const [nameA, nameB] = [adapterTensorName(name, 'A'), adapterTensorName(name, 'B')];
      a.parts.push({ name: nameA, firstRow: i * rank, rows: rank, firstCol: 0, cols: input });
      b.parts.push({ name: nameB, firstRow, rows, firstCol: i * rank, cols: rank });
      plan.push({ name: nameA, shape: [rank, input] }, { name: nameB, shape: [rows, rank] });
    });
    blocks.push(a, b);
  }
  if (head === 'reward') {
    const C = config.width;
    plan.push({ name: ADAPTER_SCORE, shape: [1, C] });
    const part = { name: ADAPTER_SCORE, firstRow: 0, rows: 1, firstCol: 0, cols: C };
    blocks.push({ key: 'score.weight', parts: [part], rows: 1, cols: C, stride: pad4(C), decay: true });
  }
  return { plan, blocks };
}

/** Two-part names of all modules with an update: short, and matching no others. */
function modulesOf(fused: Fused[]): string[] {
  return [...new Set(fused.flatMap(({ members }) => members.map(({ name }) => moduleOf(name).split('.').slice(-2).join('.'))))];
}

/**
 * Puts a fresh adapter on a loaded model, whose own weights stay as they are (load it without `trainable`). It takes part
 * in every pass recorded from now on; `model.decoder.withoutAdapter()` is the model without it, on the same weights.
 * @throws UsageError for a target that names no matrix
 */
export function attachLora(model: Pick<Model, 'decoder' | 'weights'>, settings: LoraSettings): LoraWeights {
  const lora = new LoraWeights(model.weights, settings);
  model.decoder.adapter = lora;
  return lora;
}

function copyNow(from: Tensor, to: Tensor): void {
  submit((encoder) => encoder.copyBufferToBuffer(from.buffer, from.offset, to.buffer, to.offset, to.bytes));
}

/**
 * Writes the attached adapter (its values, or flats laid out like them) as a PEFT folder.
 * @param base folder of the model that it was attached to; an adapter folder becomes one adapter with this one
 * @throws RunError where the folder cannot be written
 */
export async function saveLora(
  dir: string,
  model: Pick<Model, 'config' | 'weights' | 'rewardBias' | 'rewardGain'>,
  lora: LoraWeights,
  base: string,
  tokenizer: Record<string, string | Uint8Array> = {},
  flats?: readonly Tensor[],
): Promise<void> {
  const { config, weights, rewardBias, rewardGain } = model;
  const { rank, alpha, targets } = lora;
  const tensors = await lora.save(flats);
  const head: Head = weights.head;
  await writeAdapter(dir, { config, head, base, rank, alpha, targets, tensors, rewardBias, rewardGain, tokenizer });
}
