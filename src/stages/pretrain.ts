import type { RunContext } from '../context.ts';
import { collectRows, hashesOf, type Collected } from '../data/collect.ts';
import { encodeDocument } from '../data/encode.ts';
import { asText } from '../data/rows.ts';
import { openTokenizer } from '../files/adapter.ts';
import { stage } from '../gpu/tensor.ts';
import type { ModelConfig } from '../model/config.ts';
import { loadModel, loadTokenizer, type Model, newModel, readTemplate } from '../model/load.ts';
import { paddingShare, prepare, reserve } from '../model/passes.ts';
import { trainedPart, trainsWeights } from '../model/trained.ts';
import type { NewModelSettings, PretrainSettings } from '../options.ts';
import { byteLevelTokenizerConfig, SPECIAL_TOKENS, trainByteLevelBpe } from '../text/bpe_trainer.ts';
import { Tokenizer } from '../text/tokenizer.ts';
import { afterSteps, runSteps, type StepTask } from '../train/loop.ts';
import { checkThatFits, choosePasses, planMemory } from '../train/memory.ts';
import { Optimizer } from '../train/optimizer.ts';
import { BatchOrder } from '../train/order.ts';
import { multiplier } from '../train/schedule.ts';
import { beginRun, memoryReport, openTraining } from '../train/session.ts';
import { Documents } from './likelihood_rows.ts';
import { LikelihoodTraining } from './likelihood_training.ts';
import { checkTargets, lastMetrics, plannedBatches, pretrainingRows } from './sft.ts';

/**
 * Makes a base model from text: trains a byte-level BPE tokenizer where none is given, draws a model, and minimises the mean
 * negative log-likelihood of packed documents. With a model given, pretraining goes on from it.
 */
export async function pretrain(settings: PretrainSettings, context: RunContext): Promise<void> {
  const known = await knownTokenizer(settings);
  // Where a tokenizer is to be trained on the data, their text is kept until it is encoded: standard input is read once.
  const texts = known ? undefined : await readTexts(settings, context);
  const made = known ? { tokenizer: known, hashes: {} } : await newTokenizer(settings, texts!.rows, context);
  const { tokenizer } = made;
  if (settings.chatTemplate) tokenizer.setChatTemplate(readTemplate(settings.chatTemplate));
  if (known && settings.vocabSize !== undefined && settings.vocabSize !== known.vocabSize) {
    context.warn(`--vocab-size ${settings.vocabSize}: the tokenizer in ${settings.tokenizer} has ${known.vocabSize} entries, and so has the model`);
  }
  const opened = await openTraining(settings, context);
  const model = settings.model ? loadModel(settings.model, { dtype: settings.dtype, trainable: trainsWeights(settings), kind: 'lm' })
    : drawnModel(configOf(settings, tokenizer), settings);
  const trained = trainedPart(model, settings);
  if (tokenizer.vocabSize > model.config.vocabSize) throw new Error('the tokenizer has more entries than the model');
  const { rows, hashes } = texts ? { rows: documentsOf(texts.rows, tokenizer, model.config.context), hashes: hashesOf(texts.sources) }
    : await pretrainingRows(settings.data, tokenizer, model, settings, context);
  if (texts) {
    checkTargets(rows, settings.data);
    texts.rows.length = 0;
  }
  const heldOut = settings.evalData && await pretrainingRows(settings.evalData, tokenizer, model, settings, context);

  const order = new BatchOrder(rows.length, settings.batchSize, settings.epochs, settings);
  const batchOf = (step: number) => order.batch(step).map((i) => rows.at(i));
  const work = (microBatchTokens: number) => ({
    training: new LikelihoodTraining(model, { dropout: settings.dropout, seed: settings.seed, microBatchTokens }, context),
    optimizer: new Optimizer('adam', trained.parameters, settings),
  });
  const passes = choosePasses(settings, [model.decoder], (tokens) => planMemory(() => work(tokens),
    ({ training, optimizer }) => {
      prepare(training.upcoming(plannedBatches(order, batchOf), heldOut?.rows));
      void optimizer.ready();
    }, [trained.parameters]));
  const folder = await beginRun(settings, context, opened, {
    rows: rows.length,
    tokens: rows.tokens,
    steps: order.totalSteps,
    parameters: trained.parameters.count,
    passes,
  }, { ...made.hashes, ...hashes, ...heldOut?.hashes });
  if (!folder) return;

  const { training, optimizer } = work(passes.microBatchTokens);
  await reserve(training.upcoming(plannedBatches(order, batchOf), heldOut?.rows));
  const schedule = { ...settings, totalSteps: order.totalSteps, minRatio: settings.minLrRatio };
  const rate = (step: number): number => settings.lr * multiplier(step, schedule);

  const task: StepTask = {
    totalSteps: order.totalSteps,
    async submit(step) {
      await training.accumulate(step, batchOf(step));
      await optimizer.step(step + 1, rate(step));
      return stage(training.totals, optimizer.norm);
    },
    metrics: (step, [totals, norm]) => ({
      loss: -totals[0],
      mean_token_accuracy: totals[2],
      grad_norm: norm[0],
      lr: rate(step),
      epoch: (step + 1) / order.perEpoch,
      tokens: batchOf(step).reduce((sum, r) => sum + r.ids.length, 0),
    }),
    async evaluate(finished) {
      const due = finished === order.totalSteps || finished % order.perEpoch === 0
        || settings.evalEvery > 0 && finished % settings.evalEvery === 0;
      if (!heldOut || !due) return undefined;
      const { loss } = await training.evaluate(heldOut.rows);
      return { eval_loss: loss, eval_perplexity: Math.exp(loss) };
    },
    parts: [{ name: 'model', weights: trained.parameters, flats: trained.flats }, ...optimizer.parts],
    passes: [training.training],
  };
  const done = await runSteps('pretrain', task, folder, settings, context);

  await afterSteps(task, folder, done, undefined, () => trained.save(settings.out!, Object.fromEntries(tokenizer.files)));
  const summary = { steps: done, ...memoryReport(passes), padding: paddingShare(training.training) };
  await folder.end(summary, done === order.totalSteps);
  await context.stdout.write(JSON.stringify({ command: 'pretrain', out: settings.out, ...summary, ...lastMetrics(folder.metrics.path) }));
}

/** The model's tokenizer or the one that is asked for; none where one is to be trained. */
async function knownTokenizer({ model, tokenizer }: PretrainSettings): Promise<Tokenizer | undefined> {
  if (model) return loadTokenizer(model);
  return tokenizer ? openTokenizer(tokenizer) : undefined;
}

const readTexts = ({ data, skipBadRows }: PretrainSettings, context: RunContext): Promise<Collected<string>> =>
  collectRows(data, asText, { skipBadRows, plainText: true, warn: (line) => context.warn(line) });

/** A byte-level BPE tokenizer trained on the data's texts, or on other data. */
async function newTokenizer(settings: PretrainSettings, texts: string[],
  context: RunContext): Promise<{ tokenizer: Tokenizer; hashes: Record<string, string> }> {
  const [sources, vocabSize] = [settings.tokenizerData!, settings.vocabSize!];
  const own = sources.length === settings.data.length && sources.every((source, i) => source === settings.data[i]);
  const read = own ? { rows: texts, sources: [] }
    : await collectRows(sources, textOf, { plainText: true, skipBadRows: settings.skipBadRows, warn: (line) => context.warn(line) });
  context.log(`training a byte-level BPE tokenizer of ${vocabSize} entries`);
  const json = trainByteLevelBpe(read.rows, { vocabSize, specialTokens: Object.values(SPECIAL_TOKENS) });
  const tokenizer = await Tokenizer.fromJson(json, byteLevelTokenizerConfig(settings.context!));
  return { tokenizer, hashes: hashesOf(read.sources) };
}

function documentsOf(texts: readonly string[], tokenizer: Tokenizer, context: number): Documents {
  const rows = new Documents(context);
  for (const text of texts) rows.add(encodeDocument(tokenizer, text));
  rows.end();
  return rows;
}

/** All text of a row: a tokenizer may be trained on demonstrations as well as on prose. */
function textOf(value: Record<string, unknown>): string {
  if (typeof value.text === 'string') return value.text;
  const parts = [value.prompt, value.completion].filter((part): part is string => typeof part === 'string');
  return parts.length > 0 ? parts.join('') : asText(value);
}

function drawnModel(config: ModelConfig, settings: PretrainSettings): Model {
  checkThatFits(settings, config, 'lm');
  return newModel(config, settings.seed, true, 'lm', settings.dtype);
}

function configOf(settings: PretrainSettings, tokenizer: Tokenizer): ModelConfig {
  const { arch, width, layers, heads, kvHeads, hidden, context } = settings as NewModelSettings;
  const gpt2 = arch === 'gpt2';
  return {
    family: gpt2 ? 'gpt2' : 'llama',
    vocabSize: settings.tokenizer ? tokenizer.vocabSize : Math.max(tokenizer.vocabSize, settings.vocabSize!),
    width,
    layers,
    heads,
    kvHeads: gpt2 ? heads : kvHeads,
    headDim: width / heads,
    hidden,
    context,
    norm: gpt2 ? 'layer' : 'rms',
    normEps: 1e-5,
    positions: gpt2 ? 'learned' : 'rope',
    ropeTheta: 10000,
    activation: gpt2 ? 'gelu_new' : 'silu',
    gated: !gpt2,
    bias: { qkv: gpt2, attnOut: gpt2, mlp: gpt2 },
    tied: true,
    bosId: tokenizer.bosId,
    eosId: tokenizer.eosId,
    padId: tokenizer.padId,
    initializerRange: 0.02,
  };
}
