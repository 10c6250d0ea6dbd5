import type { RunContext } from '../context.ts';
import { hashesOf, readAll, RowError, type RowPolicy } from '../data/collect.ts';
import { encodeDemonstration, encodeDocument, type EncodedDemonstration } from '../data/encode.ts';
import type { JsonObject } from '../data/jsonl.ts';
import { asDemonstration, asText } from '../data/rows.ts';
import { UsageError } from '../errors.ts';
import { readFileSync } from 'node:fs';
import { stage } from '../gpu/tensor.ts';
import type { PackRow } from '../model/batch.ts';
import { loadModel, loadTokenizer, type Model } from '../model/load.ts';
import { paddingShare, prepare, reserve } from '../model/passes.ts';
import { trainedPart, trainsWeights } from '../model/trained.ts';
import type { SftSettings } from '../options.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { afterSteps, runSteps, type StepTask } from '../train/loop.ts';
import { choosePasses, planMemory } from '../train/memory.ts';
import { Optimizer } from '../train/optimizer.ts';
import { BatchOrder, PassOrder } from '../train/order.ts';
import { multiplier } from '../train/schedule.ts';
import { beginRun, memoryReport, openTraining } from '../train/session.ts';
import { Demonstrations, Documents, PackedDemonstrations, type LikelihoodRows } from './likelihood_rows.ts';
import { KeptWeights, LikelihoodTraining } from './likelihood_training.ts';

/** Steps whose batches are looked at for the estimate of memory: more would only show the same shapes. */
const PLANNED_STEPS = 4096;

/** The batches of a run's steps, as many as plans look at. */
export function* plannedBatches<T>(order: BatchOrder, batchOf: (step: number) => T): Generator<T> {
  for (let step = 0; step < Math.min(order.totalSteps, PLANNED_STEPS); step++) yield batchOf(step);
}

/**
 * Step 1, supervised fine-tuning (Ouyang et al. 2022, section 3.5 and appendix C.1): minimises the mean negative
 * log-likelihood of the demonstrations' response tokens, with pretraining rows mixed in where asked for (appendix C.3).
 */
export async function trainSft(settings: SftSettings, context: RunContext): Promise<void> {
  const tokenizer = await loadTokenizer(settings.model!, settings.chatTemplate);
  const opened = await openTraining(settings, context);
  const model = loadModel(settings.model!, { dtype: settings.dtype, trainable: trainsWeights(settings), kind: 'lm' });
  const trained = trainedPart(model, settings);
  const { config } = model;

  const data = await demonstrationRows(settings.data, tokenizer, model, settings, context);
  const heldOut = settings.evalData && await demonstrationRows(settings.evalData, tokenizer, model, settings, context);
  const mix = settings.pretrain && await pretrainingRows(settings.pretrain, tokenizer, model, settings, context);
  const rows = settings.packing ? new PackedDemonstrations(data.rows, config.context) : data.rows;

  const order = new BatchOrder(rows.length, settings.batchSize, settings.epochs, settings);
  const mixed = mix && mixedRows(order, rows, mix.rows, config.context, settings);
  const batchOf = (step: number): PackRow[] => [...order.batch(step).map((i) => rows.at(i)), ...(mixed?.(step) ?? [])];
  const selecting = settings.selectByReward && heldOut
    ? await (await import('./select_by_reward.ts')).openSelection(settings, model, tokenizer, context) : undefined;
  const work = (microBatchTokens: number) => ({
    training: new LikelihoodTraining(model, { dropout: settings.dropout, seed: settings.seed, microBatchTokens }, context),
    optimizer: new Optimizer('adam', trained.parameters, settings),
    best: heldOut && new KeptWeights(trained.parameters),
    answering: selecting?.work(microBatchTokens),
  });
  const passes = choosePasses(settings, [model.decoder], (tokens) => planMemory(() => work(tokens),
    ({ training, optimizer, answering }) => {
      if (answering) selecting!.plan(answering);
      prepare(training.upcoming(plannedBatches(order, batchOf), heldOut?.rows));
      void optimizer.ready();
    }, [trained.parameters]));
  const folder = await beginRun(settings, context, opened, {
    rows: rows.length,
    tokens: rows.tokens,
    steps: order.totalSteps,
    parameters: trained.parameters.count,
    passes,
  }, { ...data.hashes, ...heldOut?.hashes, ...mix?.hashes });
  if (!folder) return;

  const { training, optimizer, best, answering } = work(passes.microBatchTokens);
  // Decoding first, as it was planned.
  await Promise.all([answering && selecting!.ready(answering), reserve(training.upcoming(plannedBatches(order, batchOf), heldOut?.rows))]);
  const selection = { value: Infinity, step: 0 };
  const schedule = { ...settings, totalSteps: order.totalSteps, minRatio: settings.minLrRatio };
  const rate = (step: number): number => settings.lr * multiplier(step, schedule);

  const task: StepTask = {
    totalSteps: order.totalSteps,
    async submit(step) {
      const batch = order.batch(step).map((i) => rows.at(i));
      await training.accumulate(step, batch, mixed?.(step), settings.pretrainWeight);
      await optimizer.step(step + 1, rate(step));
      return stage(training.totals, optimizer.norm);
    },
    metrics(step, [totals, norm]) {
      const batch = order.batch(step).map((i) => rows.at(i));
      const more = mixed?.(step) ?? [];
      return {
        loss: -totals[0],
        mean_token_accuracy: totals[2],
        ...(more.length > 0 ? { 'loss/ptx': -totals[4] / settings.pretrainWeight } : {}),
        grad_norm: norm[0],
        lr: rate(step),
        epoch: (step + 1) / order.perEpoch,
        tokens: [...batch, ...more].reduce((sum, r) => sum + r.ids.length, 0),
      };
    },
    async evaluate(done) {
      const epochEnd = done % order.perEpoch === 0 || done === order.totalSteps;
      const due = epochEnd || settings.evalEvery > 0 && done % settings.evalEvery === 0;
      if (!heldOut || !due) return undefined;
      const { loss, accuracy } = await training.evaluate(heldOut.rows);
      const found: Record<string, number> = { eval_loss: loss, eval_perplexity: Math.exp(loss), eval_mean_token_accuracy: accuracy };
      if (epochEnd) {
        if (answering) found.eval_reward = await selecting!.measure(answering);
        const value = answering ? -found.eval_reward : loss;
        if (value < selection.value) {
          Object.assign(selection, { value, step: done });
          await best!.keep();
        }
      }
      return found;
    },
    // Before the first selection there is nothing to keep: infinity has no place in JSON.
    state: () => (selection.step > 0 ? { selection } : {}),
    restore: (state) => Object.assign(selection, state.selection),
    parts: [
      { name: 'model', weights: trained.parameters, flats: trained.flats },
      ...optimizer.parts,
      ...(best ? [{ name: 'best', weights: trained.parameters, flats: best.flats }] : []),
    ],
    passes: [training.training],
  };
  const done = await runSteps('train-sft', task, folder, settings, context);

  const chosen = best && selection.step > 0 ? best.flats : undefined;
  await afterSteps(task, folder, done, task.state?.(), () => trained.save(settings.out!, Object.fromEntries(tokenizer.files), chosen));
  const summary = { out: settings.out, steps: done, ...(chosen ? { selected_step: selection.step } : {}),
    ...memoryReport(passes), padding: paddingShare(training.training) };
  await folder.end(summary, done === order.totalSteps);
  await context.stdout.write(JSON.stringify({ command: 'train-sft', ...summary, ...lastMetrics(folder.metrics.path) }));
}

interface RowSettings { truncate: boolean; skipLong: boolean; skipBadRows: boolean }

/** Reads demonstrations as rows whose response tokens count; each is checked against the context. */
async function demonstrationRows(sources: string[], tokenizer: Tokenizer, model: Model, settings: RowSettings,
  context: RunContext): Promise<{ rows: Demonstrations; hashes: Record<string, string> }> {
  const policy: RowPolicy = { ...settings, warn: (line) => context.warn(line) };
  const length = { context: model.config.context, truncate: settings.truncate };
  const rows = new Demonstrations();
  const encoded = (value: JsonObject): EncodedDemonstration => {
    const row = encodeDemonstration(tokenizer, asDemonstration(value), length);
    if (!row.mask.includes(1)) throw new RowError('there is no token to learn: what is to be said is empty');
    return row;
  };
  const read = await readAll(sources, encoded, (row) => rows.add(row), policy);
  return { rows, hashes: hashesOf(read.sources) };
}

/** Reads text as packed rows of the context's length. */
export async function pretrainingRows(sources: string[], tokenizer: Tokenizer, model: Pick<Model, 'config'>, settings: Pick<RowSettings, 'skipBadRows'>,
  context: RunContext): Promise<{ rows: Documents; hashes: Record<string, string> }> {
  const policy: RowPolicy = { skipBadRows: settings.skipBadRows, plainText: true, warn: (line) => context.warn(line) };
  const rows = new Documents(model.config.context);
  const read = await readAll(sources, (value) => encodeDocument(tokenizer, asText(value)), (document) => rows.add(document), policy);
  rows.end();
  checkTargets(rows, sources);
  return { rows, hashes: hashesOf(read.sources) };
}

/** Throws UsageError where no token of the documents follows another. */
export function checkTargets(rows: Documents, sources: readonly string[]): void {
  if (!rows.hasTargets()) throw new UsageError(`${sources.join(', ')}: every document is empty, so there is nothing to learn`);
}

/**
 * Which pretraining rows join which step: one as soon as `fraction` of the demonstration tokens so far, this step's included,
 * have paid for a row of context length (appendix C.3). A function of the step alone, so that a resumed run agrees.
 */
function mixedRows(order: BatchOrder, rows: LikelihoodRows, pool: LikelihoodRows, length: number, settings: SftSettings): (step: number) => PackRow[] {
  const taken = new PassOrder(pool.length, 'pretrain', settings);
  const before: number[] = [0];
  let tokens = 0;
  for (let step = 0; step < order.totalSteps; step++) {
    for (const i of order.batch(step)) tokens += rows.size(i);
    before.push(Math.floor((settings.pretrainFraction * tokens) / length));
  }
  return (step) => {
    const chosen: PackRow[] = [];
    for (let n = before[step]; n < before[step + 1]; n++) {
      chosen.push({ ...pool.at(taken.at(n).item), key: 0x80000000 + n });
    }
    return chosen;
  };
}

/** The last line of a metrics file, for a closing summary. */
export function lastMetrics(path: string): Record<string, unknown> {
  const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
  return lines.at(-1) ? (JSON.parse(lines.at(-1)!) as Record<string, unknown>) : {};
}
