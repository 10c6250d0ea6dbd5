import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { configToHf, tensorPlan, type Head, type ModelConfig } from '../model/config.ts';
import { asideName, outputError, releaseAside, syncPath, syncTree } from './atomic.ts';
import { chooseRewardPad, TOKENIZER_FILES, withPadToken } from './reward_pad.ts';
import { tensorBytes, writeSafetensors, type NewTensor } from './safetensors_write.ts';

type Json = Record<string, unknown>;

/** A model to write. */
export interface NewModel {
  config: ModelConfig;
  head: Head;
  rewardBias?: number;
  rewardGain?: number;
  /** Every tensor of `tensorPlan(config, head)`, in any order; `data` may be a function (see NewTensor). */
  tensors: Iterable<Pick<NewTensor, 'name' | 'shape' | 'data'>>;
  /** The folder whose tokenizer files are copied, or the files themselves by name. */
  tokenizerFrom?: string | Record<string, string | Uint8Array>;
  /** generation_config.json; without it the one of the tokenizer's folder, or one with the config's special ids. */
  generationConfig?: Json;
  dtype?: 'F32' | 'F16' | 'BF16';
  /** config.json of the model this one came from: keys that we do not know are kept. */
  hfConfig?: Json;
  /** A larger model is written in several files with an index (5 GB, as in transformers). */
  maxShardBytes?: number;
}

const DTYPE_NAMES = { F32: 'float32', F16: 'float16', BF16: 'bfloat16' } as const;
const SINGLE_FILE = 'model.safetensors';
const WEIGHT_FILE = /^model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?$/;

/**
 * Writes a folder that transformers 4.57 opens with AutoModelForCausalLM, or AutoModelForSequenceClassification for a
 * reward model. All files are written aside in the folder and flushed, then renamed into place, the weights last:
 * weights that are there are whole.
 * @throws RunError where the disk is full or the folder not writable
 */
export async function writeModel(dir: string, model: NewModel): Promise<void> {
  const tensors = plannedTensors(model);
  const aside = asideName(join(dir, 'model'), 'tmp');
  try {
    await mkdir(aside, { recursive: true });
    const tokenizer = await tokenizerFiles(model.tokenizerFrom);
    await writeConfigs(aside, model, tokenizer);
    await writeWeights(aside, tensors, model.maxShardBytes ?? 5e9);
    await syncTree(aside);
    await moveInto(dir, aside);
  } catch (error) {
    await rm(aside, { recursive: true, force: true }).catch(() => undefined);
    throw outputError(error, dir);
  } finally {
    releaseAside(aside);
  }
}

function plannedTensors(model: NewModel): NewTensor[] {
  const given = new Map([...model.tensors].map((tensor) => [tensor.name, tensor]));
  const tensors = tensorPlan(model.config, model.head).map(({ name, shape }) => {
    const tensor = given.get(name);
    if (!tensor || tensor.shape.join() !== shape.join()) {
      throw new Error(`${name}: shape [${shape}] is due, ${tensor ? `[${tensor.shape}]` : 'nothing'} was given`);
    }
    given.delete(name);
    return { name, shape, dtype: model.dtype ?? 'F32', data: tensor.data };
  });
  if (given.size) throw new Error(`${[...given.keys()][0]} is no tensor of this model`);
  return tensors;
}

async function tokenizerFiles(from: NewModel['tokenizerFrom']): Promise<Map<string, string | Uint8Array>> {
  if (from === undefined) return new Map();
  if (typeof from !== 'string') return new Map(Object.entries(from));
  const names = [...TOKENIZER_FILES, 'generation_config.json'].filter((name) => existsSync(join(from, name)));
  return new Map(await Promise.all(names.map(async (name) => [name, await readFile(join(from, name))] as const)));
}

async function writeConfigs(aside: string, model: NewModel, files: Map<string, string | Uint8Array>): Promise<void> {
  const { head, dtype = 'F32', rewardBias = 0, rewardGain = 1, hfConfig } = model;
  let { config } = model;
  const extras: Json = { dtype: DTYPE_NAMES[dtype] };
  if (head === 'reward') {
    extras['rlhf'] = { reward_bias: rewardBias, reward_gain: rewardGain };
    const pad = chooseRewardPad(config, files);
    const tokenizerConfig = files.get('tokenizer_config.json');
    if (pad.token !== undefined && tokenizerConfig !== undefined) {
      files.set('tokenizer_config.json', withPadToken(tokenizerConfig, pad.token));
    }
    config = { ...config, padId: pad.id };
  }
  for (const [name, content] of files) await writeFile(join(aside, basename(name)), content);
  const written = configToHf(config, head, extras, hfConfig);
  await writeFile(join(aside, 'config.json'), toJson(written));
  if (model.generationConfig || !files.has('generation_config.json')) {
    const ids = { bos_token_id: config.bosId, eos_token_id: written['eos_token_id'] ?? undefined, pad_token_id: config.padId };
    await writeFile(join(aside, 'generation_config.json'), toJson(model.generationConfig ?? ids));
  }
}

async function writeWeights(aside: string, tensors: NewTensor[], maxShardBytes: number): Promise<void> {
  const shards: NewTensor[][] = [[]];
  let size = 0;
  for (const tensor of tensors) {
    const bytes = tensorBytes(tensor);
    if (size > 0 && size + bytes > maxShardBytes) {
      shards.push([]);
      size = 0;
    }
    shards.at(-1)!.push(tensor);
    size += bytes;
  }
  if (shards.length === 1) return writeSafetensors(join(aside, SINGLE_FILE), tensors);
  const weightMap: Record<string, string> = {};
  for (const [i, shard] of shards.entries()) {
    const name = `model-${String(i + 1).padStart(5, '0')}-of-${String(shards.length).padStart(5, '0')}.safetensors`;
    for (const tensor of shard) weightMap[tensor.name] = name;
    await writeSafetensors(join(aside, name), shard);
  }
  const metadata = { total_size: tensors.reduce((sum, tensor) => sum + tensorBytes(tensor), 0) };
  await writeFile(join(aside, 'model.safetensors.index.json'), toJson({ metadata, weight_map: weightMap }));
}

/**
 * Moves finished files to their places, the weights last. A single file of weights replaces one of the same config in one
 * rename; in every other case the earlier model's weights go first, so that they never stand beside a new config or shard.
 */
async function moveInto(dir: string, aside: string): Promise<void> {
  const rank = (name: string) => (name.endsWith('.index.json') ? 2 : WEIGHT_FILE.test(name) ? 1 : 0);
  const names = (await readdir(aside)).sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
  const config = (folder: string) => readFile(join(folder, 'config.json'), 'utf8').catch(() => undefined);
  const inPlace = names.includes(SINGLE_FILE) && (await config(dir)) === (await config(aside));
  for (const name of await readdir(dir)) {
    if (WEIGHT_FILE.test(name) && !(inPlace && name === SINGLE_FILE)) await rm(join(dir, name));
  }
  for (const name of names) await rename(join(aside, name), join(dir, name));
  await rm(aside, { recursive: true });
  await syncPath(dir);
}

function toJson(value: Json): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
