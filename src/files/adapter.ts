// Reading LoRA adapter folders in the layout of Hugging Face's PEFT: adapter_config.json and adapter_model.safetensors.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { UsageError } from '../errors.ts';
import { tensorPlan, type Head, type ModelConfig, type PlannedTensor } from '../model/config.ts';
import { Tokenizer } from '../text/tokenizer.ts';
import { readPeftConfig } from './adapter_config.ts';
import { parseJsonObject, readJsonObject, show } from './json.ts';
import { holdsModel, openModel, readAdapterConfig, type ModelFolder } from './model_folder.ts';
import { checkFinite, openSafetensors, type TensorSource } from './safetensors.ts';

/** The file of an adapter folder that holds its tensors. */
export const ADAPTER_WEIGHTS = 'adapter_model.safetensors';
const PREFIX = 'base_model.model.';
/** An adapter on an adapter on … a model: more than this is a circle. */
export const MAX_CHAIN = 8;

/** The low-rank update of one matrix: W [out, in] += scale · B · A. */
export interface LowRankUpdate {
  rank: number;
  scale: number;
  /** [rank, in] */
  a: Float32Array;
  /** [out, rank] */
  b: Float32Array;
}

/** An adapter folder, its tensors still on disk. */
export interface AdapterFolder {
  dir: string;
  /** The base model's folder. */
  base: string;
  /** What task_type says; absent where it says nothing. */
  head?: Head;
  rewardBias?: number;
  rewardGain?: number;
  /** Checks that every tensor has its place in a model and the shape that it needs there. */
  check(plan: readonly PlannedTensor[]): void;
  /** The update of a planned matrix or embedding, or undefined where it has none. */
  update(planned: PlannedTensor): LowRankUpdate | undefined;
  /**
   * The values (all, or `count` from index `from` on) of a tensor that is stored whole and takes the place of the base's:
   * modules_to_save, trained biases, embeddings and heads that PEFT saves beside their updates. Undefined where it is not.
   */
  whole(planned: PlannedTensor, from?: number, count?: number): Float32Array | undefined;
  /** Whether a head of one number is among those. */
  hasScore: boolean;
  /** Whether a tied model's embedding and output matrix are no longer one with this adapter. */
  unties(embedding: string): boolean;
  close(): void;
}

/** The name under which PEFT stores A or B of a matrix, or of an embedding (`wte`, `wpe`, `embed_tokens`). */
export function adapterTensorName(planned: string, part: 'A' | 'B'): string {
  const module = planned.replace(/\.weight$/, '');
  return /(^|\.)(wte|wpe|embed_tokens)$/.test(module) ? `${PREFIX}${module}.lora_embedding_${part}` : `${PREFIX}${module}.lora_${part}.weight`;
}

/** The names under which PEFT stores a tensor whole: by itself, and in a module that has an update, too. */
export function wholeNames(planned: string): [plain: string, besideUpdate: string] {
  return [PREFIX + planned, PREFIX + planned.replace(/(\w+)$/, 'base_layer.$1')];
}

/** PEFT's name of the head that is stored whole. */
export const ADAPTER_SCORE = `${PREFIX}score.weight`;

/** Whether a folder holds an adapter and no weights of a whole model. */
export const isAdapterFolder = (dir: string): boolean =>
  existsSync(join(dir, 'adapter_config.json')) && !holdsModel(dir);

/** [out, in] of a matrix or embedding, however it is stored. */
export const outIn = (planned: PlannedTensor): [number, number] => {
  const [rows, columns] = planned.shape as [number, number];
  return inOut(planned) ? [columns, rows] : [rows, columns];
};

/** A row is what one input leads to: Conv1D's matrices, and embeddings, whose inputs are ids. */
const inOut = ({ kind, layout }: PlannedTensor): boolean => layout === 'in_out' || kind === 'embedding';

/**
 * Opens an adapter folder.
 * @throws UsageError naming the file and the key that is malformed or not supported
 */
export function openAdapter(dir: string): AdapterFolder {
  const file = join(dir, 'adapter_config.json');
  const json = readAdapterConfig(dir);
  if (!json) throw new UsageError(`${dir}: has no adapter_config.json, so it is no LoRA adapter`);
  const { alphaOf, rank, rootScaled, head, base } = readPeftConfig(json, file, dir);
  if (!existsSync(join(dir, ADAPTER_WEIGHTS))) {
    const pickled = existsSync(join(dir, 'adapter_model.bin'));
    throw new UsageError(
      `${dir}: has no ${ADAPTER_WEIGHTS}${pickled ? ' (adapter_model.bin is not a format that rlhf reads)' : ''}`,
      pickled ? 'open it with PEFT and save it again with save_pretrained(DIR, safe_serialization=True)' : undefined,
    );
  }
  const source = openSafetensors(join(dir, ADAPTER_WEIGHTS));
  try {
    const read = (name: string, from?: number, count?: number): Float32Array => {
      const values = source.read(name, from, count);
      checkFinite(values, name, source.path, from);
      return values;
    };
    return {
      dir,
      base,
      ...(head ? { head } : {}),
      ...readReward(source),
      check: (plan) => checkTensors(source, plan, rank),
      update(planned) {
        const name = adapterTensorName(planned.name, 'A');
        const stored = source.tensors.get(name);
        if (!stored) return undefined;
        const own = stored.shape[0]!;
        return {
          rank: own,
          scale: alphaOf(planned.name.replace(/\.weight$/, '')) / (rootScaled ? Math.sqrt(own) : own),
          a: read(name),
          b: read(adapterTensorName(planned.name, 'B')),
        };
      },
      whole(planned, from, count) {
        const name = wholeNames(planned.name).find((candidate) => source.tensors.has(candidate));
        return name === undefined ? undefined : read(name, from, count);
      },
      hasScore: source.tensors.has(ADAPTER_SCORE),
      unties: (embedding) => unties(source.names, embedding, json['modules_to_save']),
      close: () => source.close(),
    };
  } catch (error) {
    source.close();
    throw error;
  }
}

/** Reward bias and gain, which PEFT's files have no place for, lie in the weights' metadata. */
function readReward(source: TensorSource): { rewardBias?: number; rewardGain?: number } {
  const text = source.metadata['rlhf'];
  if (text === undefined) return {};
  const values = parseJsonObject(Buffer.from(text), `${source.path}: __metadata__ rlhf`);
  const { reward_bias: rewardBias, reward_gain: rewardGain } = values;
  if (!Number.isFinite(rewardBias) || !Number.isFinite(rewardGain)) {
    throw new UsageError(`${source.path}: __metadata__ rlhf: reward_bias and reward_gain must be numbers`);
  }
  return { rewardBias: rewardBias as number, rewardGain: rewardGain as number };
}

/**
 * PEFT changes one of two tied matrices alone: a head of its own, an updated embedding, or one that modules_to_save copies. An
 * embedding that only lies in the file (save_embedding_layers) is loaded into the matrix that both share.
 */
function unties(names: readonly string[], embedding: string, saved: unknown): boolean {
  if (names.some((name) => name.startsWith(`${PREFIX}lm_head.`))) return true;
  if (names.includes(adapterTensorName(embedding, 'A'))) return true;
  const module = embedding.replace(/\.weight$/, '');
  return names.includes(wholeNames(embedding)[0]) && Array.isArray(saved) && saved.some((name) => typeof name === 'string' && module.endsWith(name));
}

function checkTensors(source: TensorSource, plan: readonly PlannedTensor[], rank: number): void {
  const fail = (name: string, what: string) => new UsageError(`${source.path}: tensor ${show(name)}: ${what}`);
  const used = new Set<string>();
  const expect = (name: string, shape: number[]): void => {
    const tensor = source.tensors.get(name);
    if (!tensor) throw new UsageError(`${source.path}: tensor ${show(name)} is missing`);
    if (tensor.shape.join() !== shape.join()) throw fail(name, `the base model asks for shape [${shape}], found [${tensor.shape}]`);
    used.add(name);
  };
  for (const planned of plan) {
    const whole = wholeNames(planned.name).find((name) => source.tensors.has(name));
    if (whole !== undefined) expect(whole, planned.shape);
    const [a, b] = [adapterTensorName(planned.name, 'A'), adapterTensorName(planned.name, 'B')];
    if (planned.kind === 'vector' || !(source.tensors.has(a) || source.tensors.has(b))) continue;
    const [out, input] = outIn(planned);
    const own = source.tensors.get(a)?.shape[0] ?? rank;
    if (own < 1) throw fail(a, 'has rank 0');
    expect(a, [own, input]);
    expect(b, [out, own]);
  }
  const stray = source.names.find((name) => !used.has(name));
  if (stray !== undefined) throw fail(stray, 'has no place in the base model');
  if (used.size === 0) throw new UsageError(`${source.path}: has no tensors`);
}

/**
 * Opens an adapter folder as the whole model that it stands for: the base's weights (which may be an adapter's too) with
 * the low-rank updates added while they are read, products summed in float64.
 * @param options.kind 'lm' or 'reward' refuses the other kind of head
 * @throws UsageError naming the file and the key or tensor at fault
 */
export function openAdapted(dir: string, options: { kind?: Head | 'any' } = {}, depth = 0): ModelFolder {
  if (depth >= MAX_CHAIN) throw new UsageError(`${dir}: more than ${MAX_CHAIN} adapters stand on one another`);
  const adapter = openAdapter(dir);
  let base: ModelFolder | undefined;
  try {
    base = isAdapterFolder(adapter.base) ? openAdapted(adapter.base, {}, depth + 1) : openModel(adapter.base);
    const head = adapter.head ?? (adapter.hasScore ? 'reward' : base.head);
    if (head === 'lm' && base.head === 'reward') {
      throw new UsageError(`${dir}: is an adapter of a language model, but its base ${base.dir} is a reward model`);
    }
    const { kind = 'any' } = options;
    if (kind !== 'any' && kind !== head) {
      const names = { lm: 'a language model', reward: 'a reward model' };
      throw new UsageError(`${dir}: is ${names[head]}'s adapter, but ${names[kind]} is needed here`);
    }
    const untied = head === 'lm' && base.config.tied && adapter.unties(base.plan[0]!.name);
    const config = untied ? { ...base.config, tied: false } : base.config;
    const plan = tensorPlan(config, head);
    adapter.check(plan);
    if (head === 'reward' && base.head === 'lm' && !adapter.hasScore) {
      throw new UsageError(`${join(dir, ADAPTER_WEIGHTS)}: tensor ${show(ADAPTER_SCORE)} is missing (modules_to_save: score)`);
    }
    return merged(dir, base, adapter, head, config, plan);
  } catch (error) {
    adapter.close();
    base?.close();
    throw error;
  }
}

function merged(
  dir: string, base: ModelFolder, adapter: AdapterFolder, head: Head, config: ModelConfig, plan: PlannedTensor[],
): ModelFolder {
  const stored = new Set(base.plan.map(({ name }) => name));
  const planned = new Map(plan.map((tensor) => [tensor.name, tensor]));
  return {
    dir,
    config,
    head,
    rewardBias: adapter.rewardBias ?? (base.head === 'reward' ? base.rewardBias : 0),
    rewardGain: adapter.rewardGain ?? (base.head === 'reward' ? base.rewardGain : 1),
    hfConfig: base.hfConfig,
    dtype: base.dtype,
    plan,
    read(name, from = 0, count) {
      const tensor = planned.get(name);
      if (!tensor) throw new Error(`${name} is no tensor of this model`);
      // A head that a tied base does not have begins as its embedding.
      const values = adapter.whole(tensor, from, count) ?? base.read(stored.has(name) ? name : base.plan[0]!.name, from, count);
      const update = tensor.kind === 'vector' ? undefined : adapter.update(tensor);
      if (update) {
        addUpdate(values, from, tensor, update);
        checkFinite(values, name, dir, from);
      }
      return values;
    },
    close() {
      adapter.close();
      base.close();
    },
  };
}

/** Adds scale·B·A (transposed for [in, out] matrices and embeddings) to `values`, which begin at index `from` of the matrix. */
export function addUpdate(values: Float32Array, from: number, planned: PlannedTensor, { rank, scale, a, b }: LowRankUpdate): void {
  const [out, input] = outIn(planned);
  const transposed = inOut(planned);
  const columns = transposed ? out : input;
  const row = new Float64Array(columns);
  for (let at = 0; at < values.length;) {
    const r = Math.floor((from + at) / columns);
    const first = (from + at) % columns;
    const count = Math.min(columns - first, values.length - at);
    row.fill(0);
    for (let k = 0; k < rank; k++) {
      // Row r is an output with a row of A for each k, or (Conv1D, embeddings) an input with a column of B.
      const factor = scale * (transposed ? a[k * input + r]! : b[r * rank + k]!);
      for (let c = first; c < first + count; c++) row[c] += factor * (transposed ? b[c * rank + k]! : a[k * input + c]!);
    }
    for (let i = 0; i < count; i++) values[at + i] += row[first + i]!;
    at += count;
  }
}

/** Where an adapter's or model's tokenizer lies: in its folder, or in its base's. */
export function tokenizerFolder(dir: string): string {
  let last = dir;
  for (last of withBases(dir)) if (existsSync(join(last, 'tokenizer.json'))) break;
  return last;
}

/** That tokenizer, which generates up to where the model or its base says. */
export const openTokenizer = (dir: string): Promise<Tokenizer> => Tokenizer.load(tokenizerFolder(dir), [...withBases(dir)]);

/** Rows of a model's embedding as config.json has them, of an adapter's base; undefined where it does not say. */
export function embeddingRows(dir: string): number | undefined {
  const path = join([...withBases(dir)].at(-1)!, 'config.json');
  const rows = existsSync(path) ? readJsonObject(path)['vocab_size'] : undefined;
  return typeof rows === 'number' ? rows : undefined;
}

/** A model's folder; of an adapter then the model that it stands on, and so on, whether they are there or not. */
export function* withBases(dir: string): Generator<string> {
  yield dir;
  let at = dir;
  for (let depth = 0; depth < MAX_CHAIN && isAdapterFolder(at); depth++) {
    const adapter = openAdapter(at);
    adapter.close();
    yield (at = adapter.base);
  }
}
