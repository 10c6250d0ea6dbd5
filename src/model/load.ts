import { readFileSync } from 'node:fs';
import { RunError, UsageError } from '../errors.ts';
import { embeddingRows, openTokenizer, tokenizerFolder } from '../files/adapter.ts';
import { openModel, writeModel, type ModelFolder } from '../files/model_folder.ts';
import { RandomStream } from '../train/random.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { persistent, upload, type Storage, type Tensor } from '../gpu/tensor.ts';
import type { Head, ModelConfig, PlannedTensor } from './config.ts';
import { Decoder } from './decoder.ts';
import { Weights } from './weights.ts';

/** A model on the device with what belongs to it. */
export interface Model {
  dir: string;
  config: ModelConfig;
  decoder: Decoder;
  weights: Weights;
  /** r = gain·(w·h) + bias; 1 and 0 for language models. */
  rewardGain: number;
  rewardBias: number;
  /** (gain, bias) on the device, of reward and value models. */
  scale: Tensor;
  /** config.json of the folder it came from. */
  hfConfig?: Record<string, unknown>;
}

export interface LoadOptions {
  trainable?: boolean;
  /** Takes a reward model's gain into its head, so that the gain is 1: what training needs. */
  foldGain?: boolean;
  kind?: Head | 'any';
  /** How matrices and values within a layer are stored (--dtype); trained matrices are kept as f32 too. Default: f32. */
  dtype?: Storage;
  /** Gives a language model's body another head: a reward head drawn from `seed` or of zeros. */
  newHead?: { kind: 'normal'; seed: number } | { kind: 'zeros' };
}

/** Opens a model folder and puts its weights on the device. Throws UsageError for whatever is wrong with the folder. */
export function loadModel(dir: string, options: LoadOptions = {}): Model {
  const folder = openModel(dir, { kind: options.kind ?? 'any' });
  try {
    const replaced = options.newHead !== undefined && folder.head === 'lm';
    const head = replaced ? 'reward' : folder.head;
    const weights = new Weights(folder.config, head, options.trainable ?? false, options.dtype);
    const fresh = new Map(weights.plan.filter((t) => t.name === 'score.weight').map((t) => [t.name, t]));
    weights.fill((name, from, count) => (replaced && fresh.has(name)
      ? newHead(fresh.get(name)!, folder.config, options.newHead!).subarray(from, from + count)
      : scaled(folder.read(name, from, count), options.foldGain && name === 'score.weight' ? folder.rewardGain : 1)));
    return assemble(folder, weights, replaced || options.foldGain ? { gain: 1, bias: replaced ? 0 : folder.rewardBias }
      : { gain: folder.rewardGain, bias: folder.rewardBias });
  } finally {
    folder.close();
  }
}

/**
 * A loaded reward model once more on the same weights, for a value model's adapter: with a decoder that has none yet, and a gain of 1.
 * `head` [C] is what `foldGain` makes of its head, to be uploaded to the adapter's: the weights keep theirs.
 */
export function onSameWeights(model: Model): { model: Model; head: Float32Array } {
  const folder = openModel(model.dir, { kind: 'reward' });
  try {
    const head = scaled(folder.read('score.weight'), folder.rewardGain);
    const scale = persistent(2, 1, 1);
    upload(scale, Float32Array.of(1, model.rewardBias));
    return { model: { ...model, decoder: model.decoder.withoutAdapter(), rewardGain: 1, scale }, head };
  } finally {
    folder.close();
  }
}

function assemble(folder: ModelFolder, weights: Weights, { gain, bias }: { gain: number; bias: number }): Model {
  const { dir, config, hfConfig } = folder;
  const scale = persistent(2, 1, 1);
  upload(scale, Float32Array.of(gain, bias));
  return { dir, config, decoder: new Decoder(config, weights), weights, rewardGain: gain, rewardBias: bias, scale, hfConfig };
}

/** A freshly drawn model: normal weights with the config's standard deviation, norms 1, biases 0. */
export function newModel(config: ModelConfig, seed: number, trainable = true, head: Head = 'lm', dtype?: Storage): Model {
  const weights = new Weights(config, head, trainable, dtype);
  const order = new Map(weights.plan.map((t, i) => [t.name, i]));
  const planned = new Map(weights.plan.map((t) => [t.name, t]));
  weights.load((name) => draw(planned.get(name)!, config, new RandomStream(seed, 'initialise', order.get(name)!)));
  const scale = persistent(2, 1, 1);
  upload(scale, Float32Array.of(1, 0));
  return { dir: '', config, decoder: new Decoder(config, weights), weights, rewardGain: 1, rewardBias: 0, scale };
}

function newHead(planned: PlannedTensor, config: ModelConfig, kind: NonNullable<LoadOptions['newHead']>): Float32Array {
  if (kind.kind === 'zeros') return new Float32Array(size(planned));
  return draw(planned, config, new RandomStream(kind.seed, 'head'));
}

/** A trained head takes the gain into its weights, so that gradients need not know of it. */
const scaled = (values: Float32Array, gain: number): Float32Array => (gain === 1 ? values : values.map((x) => x * gain));

const size = ({ shape }: PlannedTensor): number => shape.reduce((product, n) => product * n, 1);

function draw(planned: PlannedTensor, config: ModelConfig, random: RandomStream): Float32Array {
  const values = new Float32Array(size(planned));
  if (planned.init === 'zeros') return values;
  if (planned.init === 'ones') return values.fill(1);
  const deviation = planned.init === 'head' ? 1 / Math.sqrt(config.width + 1)
    : planned.init === 'residual' ? config.initializerRange / Math.sqrt(2 * config.layers) : config.initializerRange;
  for (let i = 0; i < values.length; i++) values[i] = deviation * random.normal();
  return values;
}

/**
 * Reads a model folder's tokenizer, for the rows of its embedding; an adapter folder without one has its base's.
 * @param chatTemplate a file with another chat template
 */
export async function loadTokenizer(dir: string, chatTemplate?: string): Promise<Tokenizer> {
  const tokenizer = await openTokenizer(dir);
  const rows = embeddingRows(dir);
  if (rows !== undefined) tokenizer.limitIds(rows, tokenizerFolder(dir));
  if (chatTemplate !== undefined) tokenizer.setChatTemplate(readTemplate(chatTemplate));
  return tokenizer;
}

/** The text of a chat template's file. Throws UsageError where it is not UTF-8. */
export function readTemplate(path: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(path));
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw new UsageError(`--chat-template: ${path} is not UTF-8 text`);
  }
}

/**
 * Makes sure that a model can read all that another one writes.
 * @param option that named the reader
 * @param length tokens of the longest row
 * @throws UsageError where its embedding or its context is too small
 */
export function checkReader(option: string, { dir, config }: Model, writer: Model, length: number): void {
  if (config.vocabSize < writer.config.vocabSize) {
    throw new UsageError(`${option}: ${dir} has ${config.vocabSize} rows in its embedding, but reads tokens of ${writer.dir}, which has ${writer.config.vocabSize}`);
  }
  if (config.context < length) {
    throw new UsageError(`${option}: ${dir} has a context of ${config.context}, but rows may have ${length} tokens`,
      'a lower --max-new-tokens makes them shorter');
  }
}

/** Writes a model (its weights, or tensors laid out like them such as a moving average) as a Hugging Face folder. */
export async function saveModel(dir: string, model: Model, tokenizerFrom: string | Record<string, string | Uint8Array>,
  flats?: readonly Tensor[]): Promise<void> {
  const { config, weights, rewardBias, rewardGain, hfConfig } = model;
  await writeModel(dir, {
    config,
    head: weights.head,
    rewardBias,
    rewardGain,
    hfConfig,
    tokenizerFrom,
    tensors: weights.toWrite((name) => new RunError(`${dir}: not written, ${name} holds a number that is not finite`, 'lower --lr'), flats),
  });
}
