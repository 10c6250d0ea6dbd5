import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { UsageError } from '../errors.ts';
import { configFromHf, tensorPlan, type Head, type ModelConfig, type PlannedTensor } from '../model/config.ts';
import { openAdapted } from './adapter.ts';
import { inputError, readJsonObject, show } from './json.ts';
import { checkFinite, openSafetensors, type TensorSource } from './safetensors.ts';
import { openShards } from './safetensors_shards.ts';

export { writeModel, type NewModel } from './model_folder_write.ts';

type Json = Record<string, unknown>;

export const WEIGHTS_FILE = 'model.safetensors';
export const INDEX_FILE = 'model.safetensors.index.json';

const MAX_CONFIG_BYTES = 4 * 2 ** 20;

/**
 * A Hugging Face model folder, its weights still on disk. Tensor names are those of `plan`, whatever the files call
 * them.
 */
export interface ModelFolder {
  dir: string;
  config: ModelConfig;
  head: Head;
  /** r = rewardGain · (w·h) + rewardBias; 0 and 1 where config.json does not say. */
  rewardBias: number;
  rewardGain: number;
  /** config.json as it was read. */
  hfConfig: Json;
  /** The type that the embedding is stored in. */
  dtype: string;
  plan: PlannedTensor[];
  /** adapter_config.json, where a LoRA adapter lies in the same folder. */
  adapter?: Json;
  /**
   * A tensor's values in float32 (all, or `count` of them from index `from` on), checked to be finite.
   * @throws UsageError naming the file and the tensor
   */
  read(name: string, from?: number, count?: number): Float32Array;
  close(): void;
}

/** Whether a folder holds finished weights. */
export function holdsModel(dir: string): boolean {
  return existsSync(join(dir, WEIGHTS_FILE)) || existsSync(join(dir, INDEX_FILE));
}

/** adapter_config.json of a LoRA adapter folder (PEFT's layout), or undefined where there is none. */
export function readAdapterConfig(dir: string): Json | undefined {
  const path = join(dir, 'adapter_config.json');
  return existsSync(path) ? readJsonObject(path, MAX_CONFIG_BYTES) : undefined;
}

/**
 * Opens a model folder: config.json and the headers of the weight files are read and every tensor's name, shape and
 * type compared with what the config asks for. Weights are read later, one by one. A LoRA adapter's folder is opened as
 * the model that it stands for.
 * @param options.kind 'lm' or 'reward' refuses the other kind of head
 * @throws UsageError naming the file, and the key or tensor at fault
 */
export function openModel(dir: string, { kind = 'any' }: { kind?: Head | 'any' } = {}): ModelFolder {
  checkFolder(dir);
  const adapter = readAdapterConfig(dir);
  if (adapter && !holdsModel(dir)) return openAdapted(dir, { kind });
  const configPath = join(dir, 'config.json');
  if (!existsSync(configPath)) throw noConfig(dir);
  const hfConfig = readJsonObject(configPath, MAX_CONFIG_BYTES);
  const config = configFromHf(hfConfig, configPath);
  const source = openWeights(dir);
  try {
    const head = findHead(hfConfig, configPath, source);
    if (kind !== 'any' && kind !== head) throw wrongKind(dir, head);
    const plan = tensorPlan(config, head);
    const stored = matchTensors(source, plan, config);
    const embedding = plan[0]!.name;
    const twin = config.tied && head === 'lm' && source.tensors.has(HEAD) && stored.get(embedding) !== HEAD;
    return {
      dir,
      config,
      head,
      ...readReward(hfConfig, configPath),
      hfConfig,
      dtype: source.tensors.get(stored.get(plan[0]!.name)!)!.dtype,
      plan,
      ...(adapter ? { adapter } : {}),
      read(name, from, count) {
        const storedName = stored.get(name);
        if (storedName === undefined) throw new Error(`${name} is no tensor of this model`);
        const values = source.read(storedName, from, count);
        checkFinite(values, storedName, source.fileOf(storedName), from);
        if (twin && name === embedding) checkTwin(values, source, from, count);
        return values;
      },
      close: () => source.close(),
    };
  } catch (error) {
    source.close();
    throw error;
  }
}

const HEAD = 'lm_head.weight';

/**
 * A tied model's file may hold the embedding twice. Where the head is another matrix, transformers 4 and 5 read different
 * models of it.
 */
function checkTwin(values: Float32Array, source: TensorSource, from?: number, count?: number): void {
  const head = source.tensors.get(HEAD)!;
  const other = head.shape.reduce((product, n) => product * n, 1) < (from ?? 0) + values.length ? undefined : source.read(HEAD, from, count ?? values.length);
  if (other && values.every((x, i) => x === other[i])) return;
  throw new UsageError(
    `${source.fileOf(HEAD)}: tensor "${HEAD}" differs from the embedding, but config.json says tie_word_embeddings`,
    'set tie_word_embeddings to false in config.json to use both, or take the tensor out of the file',
  );
}

function checkFolder(dir: string): void {
  try {
    if (!statSync(dir).isDirectory()) {
      const hint = dir.endsWith('.gguf') ? 'rlhf import makes a model folder of a GGUF file' : undefined;
      throw new UsageError(`${dir}: is not a model folder`, hint);
    }
  } catch (error) {
    throw inputError(error, dir);
  }
}

function noConfig(dir: string): UsageError {
  const gguf = readdirSync(dir).find((name) => name.endsWith('.gguf'));
  return new UsageError(
    `${dir}: has no config.json, so it is not a model folder`,
    gguf && `rlhf import ${join(dir, gguf)} makes a model folder of it`,
  );
}

function openWeights(dir: string): TensorSource {
  // The single file goes first, as in transformers.
  if (existsSync(join(dir, WEIGHTS_FILE))) return openSafetensors(join(dir, WEIGHTS_FILE));
  if (existsSync(join(dir, INDEX_FILE))) return openShards(join(dir, INDEX_FILE));
  const other = readdirSync(dir).find((name) => /^(pytorch_model.*\.bin|tf_model\.h5|flax_model.*)$/.test(name));
  throw new UsageError(
    `${dir}: has no ${WEIGHTS_FILE}${other ? ` (${other} is not a format that rlhf reads)` : ''}`,
    other && 'open it in transformers and save it again with save_pretrained(DIR, safe_serialization=True)',
  );
}

function findHead(hfConfig: Json, file: string, source: TensorSource): Head {
  const architectures = hfConfig['architectures'] ?? [];
  if (!Array.isArray(architectures)) throw new UsageError(`${file}: architectures must be a list`);
  const name: unknown = architectures[0];
  if (name === undefined) return source.tensors.has('score.weight') ? 'reward' : 'lm';
  if (typeof name !== 'string') throw new UsageError(`${file}: architectures: ${show(name)} is not a class name`);
  if (/(ForCausalLM|LMHeadModel)$/.test(name)) return 'lm';
  if (/^(GPT2|Llama|Qwen2)Model$/.test(name)) return 'lm';
  if (!/ForSequenceClassification$/.test(name)) {
    throw new UsageError(
      `${file}: architectures: ${show(name)} is not supported (supported: …ForCausalLM, GPT2LMHeadModel, ` +
        '…ForSequenceClassification with one label)',
    );
  }
  const labels = hfConfig['id2label'];
  const count =
    typeof labels === 'object' && labels !== null ? Object.keys(labels).length : (hfConfig['num_labels'] ?? 2);
  if (count !== 1) throw new UsageError(`${file}: id2label: a reward model has one label, this one has ${show(count)}`);
  return 'reward';
}

function wrongKind(dir: string, head: Head): UsageError {
  return head === 'reward'
    ? new UsageError(`${dir}: is a reward model, but a language model is needed here`)
    : new UsageError(`${dir}: is a language model, but a reward model is needed here`, 'rlhf train-rm makes one of it');
}

function readReward(hfConfig: Json, file: string): { rewardBias: number; rewardGain: number } {
  const value = hfConfig['rlhf'] ?? {};
  if (typeof value !== 'object') throw new UsageError(`${file}: rlhf must be an object, but is ${show(value)}`);
  const number = (key: string, missing: number) => {
    const found = (value as Json)[key] ?? missing;
    if (typeof found !== 'number' || !Number.isFinite(found)) {
      throw new UsageError(`${file}: rlhf.${key} must be a number, but is ${show(found)}`);
    }
    return found;
  };
  return { rewardBias: number('reward_bias', 0), rewardGain: number('reward_gain', 1) };
}

/**
 * Buffers and heads which transformers does not read either: causal masks, rotary tables, a head that is not this
 * model's.
 */
const IGNORED = /(^|\.)attn\.(bias|masked_bias)$|(^|\.)rotary_emb\.inv_freq$|^lm_head\.weight$|^score\.weight$/;

/** Which stored tensor holds each planned one: base-model files leave out the prefix `transformer.` or `model.`. */
function matchTensors(source: TensorSource, plan: PlannedTensor[], config: ModelConfig): Map<string, string> {
  const prefix = config.family === 'gpt2' ? 'transformer.' : 'model.';
  const stored = new Map<string, string>();
  const used = new Set<string>();
  for (const { name, shape } of plan) {
    const bare = name.startsWith(prefix) ? name.slice(prefix.length) : name;
    const names = [name, bare];
    // Of two tied tensors a file keeps one, which may be the head.
    if (config.tied && name === plan[0]!.name) names.push(HEAD);
    const found = names.find((candidate) => source.tensors.has(candidate));
    if (found === undefined) throw new UsageError(`${source.path}: tensor ${show(name)} is missing`);
    const tensor = source.tensors.get(found)!;
    const file = source.fileOf(found);
    if (tensor.shape.length !== shape.length || tensor.shape.some((n, i) => n !== shape[i])) {
      throw new UsageError(
        `${file}: tensor ${show(found)}: config.json asks for shape [${shape}], found [${tensor.shape}]`,
      );
    }
    if (!/^(F64|F32|F16|BF16)$/.test(tensor.dtype)) {
      throw new UsageError(
        `${file}: tensor ${show(found)} is stored as ${tensor.dtype} (supported: F32, F16, BF16, F64)`,
      );
    }
    stored.set(name, found);
    used.add(found);
  }
  const stray = source.names.find((name) => !used.has(name) && !IGNORED.test(name));
  if (stray !== undefined) {
    throw new UsageError(
      `${source.fileOf(stray)}: tensor ${show(stray)} has no place in the model that config.json describes`,
    );
  }
  return stored;
}
