// Writing LoRA adapter folders that PEFT opens, those trained on another adapter as one with it.
import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { UsageError } from '../errors.ts';
import { tensorPlan, type Head, type ModelConfig } from '../model/config.ts';
import {
  ADAPTER_SCORE, adapterTensorName, ADAPTER_WEIGHTS, isAdapterFolder, MAX_CHAIN, openAdapter, outIn, wholeNames, type AdapterFolder,
} from './adapter.ts';
import { asideName, outputError, releaseAside, syncPath, syncTree } from './atomic.ts';
import { writeSafetensors } from './safetensors.ts';

/** An adapter to write. */
export interface NewAdapter {
  config: ModelConfig;
  head: Head;
  /** Folder of the model it was trained on; if that is an adapter folder, both become one adapter of its base. */
  base: string;
  rank: number;
  alpha: number;
  /** Last parts of the names of the matrices that have an update, as PEFT's target_modules. */
  targets: readonly string[];
  /** Values under PEFT's names: every A and B, the head of a reward model, and tensors that take the place of the base's. */
  tensors: ReadonlyMap<string, Float32Array>;
  rewardBias?: number;
  rewardGain?: number;
  /** Tokenizer files by name. */
  tokenizer?: Readonly<Record<string, string | Uint8Array>>;
}

/**
 * Writes an adapter folder that PEFT 0.17 opens. All files are written aside and flushed, then renamed into place, the
 * weights last.
 * @throws RunError where the disk is full or the folder not writable
 */
export async function writeAdapter(dir: string, given: NewAdapter): Promise<void> {
  const adapter = isAdapterFolder(given.base) ? combined(given) : given;
  const { config, head, tensors, rewardBias = 0, rewardGain = 1 } = adapter;
  const aside = asideName(join(dir, 'adapter'), 'tmp');
  try {
    await mkdir(aside, { recursive: true });
    for (const [name, content] of Object.entries(adapter.tokenizer ?? {})) await writeFile(join(aside, basename(name)), content);
    await writeFile(join(aside, 'adapter_config.json'), `${JSON.stringify(peftConfig(adapter), null, 2)}\n`);
    const shapes = adapterShapes(config, head, tensors);
    const reward = JSON.stringify({ reward_bias: rewardBias, reward_gain: rewardGain });
    await writeSafetensors(
      join(aside, ADAPTER_WEIGHTS),
      [...tensors].map(([name, data]) => ({ name, shape: shapes.get(name)!, data })),
      { format: 'pt', ...(head === 'reward' ? { rlhf: reward } : {}) },
    );
    await syncTree(aside);
    const names = (await readdir(aside)).sort((x, y) => Number(x === ADAPTER_WEIGHTS) - Number(y === ADAPTER_WEIGHTS));
    await rm(join(dir, ADAPTER_WEIGHTS), { force: true });
    for (const name of names) await rename(join(aside, name), join(dir, name));
    await rm(aside, { recursive: true });
    await syncPath(dir);
  } catch (error) {
    await rm(aside, { recursive: true, force: true }).catch(() => undefined);
    throw outputError(error, dir);
  } finally {
    releaseAside(aside);
  }
}

function peftConfig({ config, head, base, rank, alpha, targets, tensors }: NewAdapter): Record<string, unknown> {
  // Of a tied base PEFT must change a copy alone.
  const copied = config.tied ? [] : tensorPlan(config, head)
    .filter(({ name, kind }) => kind !== 'vector' && name !== 'score.weight' && tensors.has(wholeNames(name)[0])).map(({ name }) => moduleName(name));
  const saved = [...(head === 'reward' ? ['score'] : []), ...copied];
  return {
    base_model_name_or_path: resolve(base),
    bias: 'none',
    fan_in_fan_out: config.family === 'gpt2',
    inference_mode: true,
    init_lora_weights: true,
    lora_alpha: alpha,
    lora_dropout: 0,
    modules_to_save: saved.length ? saved : null,
    peft_type: 'LORA',
    r: rank,
    target_modules: [...targets],
    task_type: head === 'reward' ? 'SEQ_CLS' : 'CAUSAL_LM',
  };
}

/** The last two parts of a module's name, which tell it from the others of its layer. */
const moduleName = (tensor: string): string => tensor.replace(/\.weight$/, '').split('.').slice(-2).join('.');

/** The shape of every tensor, from the model's plan and the number of values. */
function adapterShapes(config: ModelConfig, head: Head, tensors: ReadonlyMap<string, Float32Array>): Map<string, number[]> {
  const shapes = new Map<string, number[]>();
  for (const planned of tensorPlan(config, head)) {
    for (const name of wholeNames(planned.name)) shapes.set(name, planned.shape);
    if (planned.kind === 'vector') continue;
    const [out, input] = outIn(planned);
    const [a, b] = [adapterTensorName(planned.name, 'A'), adapterTensorName(planned.name, 'B')];
    const rank = (tensors.get(a)?.length ?? 0) / input;
    shapes.set(a, [rank, input]);
    shapes.set(b, [out, rank]);
  }
  const stray = [...tensors.keys()].find((name) => !shapes.has(name));
  if (stray !== undefined) throw new Error(`${stray} is no tensor of an adapter of this model`);
  return shapes;
}

/**
 * One adapter that does what two on one another do: A = [A1; A2], B = [s1·B1, s2·B2], rank the sum of both, scale 1. A
 * matrix that only one of them has gets zeros for the other.
 */
function combined(adapter: NewAdapter): NewAdapter {
  let result = adapter;
  for (let depth = 0; isAdapterFolder(result.base); depth++) {
    if (depth >= MAX_CHAIN) throw new UsageError(`${adapter.base}: more than ${MAX_CHAIN} adapters stand on one another`);
    const below = openAdapter(result.base);
    try {
      result = stack(result, below);
    } finally {
      below.close();
    }
  }
  return result;
}

function stack(above: NewAdapter, below: AdapterFolder): NewAdapter {
  const plan = tensorPlan(above.config, above.head).filter(({ name }) => name !== 'score.weight');
  // What the upper one has whole leaves nothing of the lower one's.
  const replaced = (name: string): boolean => wholeNames(name).some((whole) => above.tensors.has(whole));
  const updates = plan.filter(({ kind }) => kind !== 'vector')
    .map((planned) => ({ planned, lower: replaced(planned.name) ? undefined : below.update(planned) }));
  const lowerRank = Math.max(0, ...updates.map(({ lower }) => lower?.rank ?? 0));
  const rank = lowerRank + above.rank;
  const tensors = new Map<string, Float32Array>();
  const modules = new Set<string>();
  for (const { planned, lower } of updates) {
    const [out, input] = outIn(planned);
    const names = [adapterTensorName(planned.name, 'A'), adapterTensorName(planned.name, 'B')] as const;
    const [upperA, upperB] = names.map((name) => above.tensors.get(name));
    if (!lower && !upperA) continue;
    const a = new Float32Array(rank * input);
    const b = new Float32Array(out * rank);
    const put = (first: number, r: number, scale: number, fromA: Float32Array, fromB: Float32Array): void => {
      a.set(fromA, first * input);
      for (let o = 0; o < out; o++) for (let k = 0; k < r; k++) b[o * rank + first + k] = scale * fromB[o * r + k]!;
    };
    if (lower) put(0, lower.rank, lower.scale, lower.a, lower.b);
    if (upperA && upperB) put(lowerRank, above.rank, above.alpha / above.rank, upperA, upperB);
    tensors.set(names[0], a);
    tensors.set(names[1], b);
    modules.add(moduleName(planned.name));
  }
  for (const { name, ...planned } of plan) {
    const upper = wholeNames(name).map((whole) => above.tensors.get(whole)).find((values) => values);
    const whole = upper ?? below.whole({ name, ...planned });
    // PEFT looks for it below `base_layer` where the module has an update as well.
    const updated = tensors.has(adapterTensorName(name.replace(/bias$/, 'weight'), 'A'));
    if (whole) tensors.set(wholeNames(name)[Number(updated)], whole);
  }
  const score = above.tensors.get(ADAPTER_SCORE);
  if (score) tensors.set(ADAPTER_SCORE, score);
  return { ...above, base: below.base, rank, alpha: rank, targets: [...modules], tensors };
}
