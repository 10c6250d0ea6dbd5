import type { RunContext } from '../context.ts';
import { hashesOf, readAll, type RowPolicy } from '../data/collect.ts';
import { encodeCompletions, encodeDemonstration, encodePrompt } from '../data/encode.ts';
import { asDemonstration, asRanking, type Demonstration } from '../data/rows.ts';
import { TokenRows } from '../data/token_rows.ts';
import { UsageError } from '../errors.ts';
import { rankingLoss } from '../gpu/ops/ranking_loss.ts';
import { weightedSum } from '../gpu/ops/sums.ts';
import { persistent, stage, stagedAll, upload, vector, type Staged, type Tensor } from '../gpu/tensor.ts';
import { packRows, type PackRow } from '../model/batch.ts';
import { loadModel, loadTokenizer } from '../model/load.ts';
import { trainedPart, trainsWeights } from '../model/trained.ts';
import { paddingShare, Passes, prepare, reserve, type PassTensors } from '../model/passes.ts';
import { shareBeginnings } from '../model/shared_beginnings.ts';
import { residualDropout } from '../model/residual_dropout.ts';
import type { RmSettings } from '../options.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { afterSteps, runSteps, type StepTask } from '../train/loop.ts';
import { choosePasses, planMemory } from '../train/memory.ts';
import { inPasses, readingTokens, tokensOf as packedTokens } from '../train/micro_batches.ts';
import { Optimizer } from '../train/optimizer.ts';
import { BatchOrder } from '../train/order.ts';
import { RandomStream } from '../train/random.ts';
import { average, rankingReport, type ScoredRanking } from '../train/ranking_metrics.ts';
import { multiplier } from '../train/schedule.ts';
import { beginRun, compileProgress, memoryReport, openTraining } from '../train/session.ts';
import { Scorer } from './judge.ts';
import { hasStrictPair, RankingRows, type EncodedRanking } from './ranking_rows.ts';
import { lastMetrics, plannedBatches } from './sft.ts';

/** What the ranking loss needs beside the scores, for one recorded pass. */
interface RankingFeeds {
  ranks: Tensor;
  prompts: Tensor;
  margins: Tensor;
  weights: Tensor;
  sumWeights: Tensor;
  stats: Tensor;
}

/**
 * Step 2, the reward model (Ouyang et al. 2022, section 3.5, equation 1): the SFT model with a scalar head read at EOS,
 * trained on all strict pairs of each prompt's K responses as one batch element.
 */
export async function trainRm(settings: RmSettings, context: RunContext): Promise<void> {
  const tokenizer = await loadTokenizer(settings.model!, settings.chatTemplate);
  const opened = await openTraining(settings, context);
  const model = loadModel(settings.model!, { dtype: settings.dtype, trainable: trainsWeights(settings), foldGain: true, newHead: { kind: 'normal', seed: settings.seed } });
  const trained = trainedPart(model, settings);
  const { config } = model;
  const data = await readRankings(settings.data, tokenizer, config.context, settings, context);
  const heldOut = settings.evalData && await readRankings(settings.evalData, tokenizer, config.context, settings, context);
  const demonstrations = settings.demonstrations
    && await readDemonstrations(settings.demonstrations, tokenizer, config.context, settings, context);

  if (!data.rankings.hasStrictPair()) {
    throw new UsageError(`--data: no prompt of ${settings.data.join(', ')} has two responses of different ranks`, 'ties teach nothing');
  }
  const order = new BatchOrder(data.rankings.length, settings.batchSize, settings.epochs, settings);
  const batchOf = (step: number): EncodedRanking[] => {
    const epoch = Math.floor(step / order.perEpoch);
    return order.batch(step).map((i) => atMost(data.rankings.at(i), settings.k, settings.seed, epoch, i));
  };
  // The bias makes the mean reward of the demonstrations (or of the best-ranked training responses) zero.
  const standard = (): Iterable<Int32Array> => demonstrations ? demonstrations.rows.all() : data.rankings.best();
  function* evaluated(): Generator<Int32Array> {
    for (const { responses } of heldOut ? heldOut.rankings : []) yield* responses;
  }
  const work = (budget: number) => {
    const [totals, dropoutState] = [persistent(2, 4), vector(2)];
    const passes = new Passes<RankingFeeds>(model.decoder, {
      training: true,
      scale: model.scale,
      join: settings.dropout > 0 ? residualDropout(settings.dropout, dropoutState) : undefined,
      objective: (pass) => rankingObjective(pass, totals),
    }, compileProgress(context));
    let largest = 0;
    for (const part of parts(budget)) largest = Math.max(largest, packedTokens(part));
    const scorer = new Scorer(model, readingTokens(budget, largest));
    return { totals, dropoutState, passes, optimizer: new Optimizer('adam', trained.parameters, settings), scorer };
  };
  function* parts(tokens: number): Generator<PackRow[]> {
    for (const batch of plannedBatches(order, batchOf)) for (const { rows } of promptBatches(batch, tokens)) yield rows;
  }
  const chosen = choosePasses(settings, [model.decoder], (tokens) => planMemory(() => work(tokens),
    ({ passes, optimizer, scorer }) => {
      prepare([{ passes, batches: parts(tokens) }, scorer.upcoming(standard()), scorer.upcoming(evaluated())]);
      void optimizer.ready();
    }, [trained.parameters]));
  const budget = chosen.microBatchTokens;
  const folder = await beginRun(settings, context, opened, {
    rows: data.rankings.length,
    tokens: data.rankings.tokens,
    steps: order.totalSteps,
    parameters: trained.parameters.count,
    passes: chosen,
  }, { ...data.hashes, ...heldOut?.hashes, ...demonstrations?.hashes });
  if (!folder) return;

  const { totals, dropoutState, passes, optimizer, scorer } = work(budget);
  await reserve([{ passes, batches: parts(budget) }, scorer.upcoming(standard()), scorer.upcoming(evaluated())]);
  const nothing = new Float32Array(totals.rows * totals.cols);
  const schedule = { ...settings, totalSteps: order.totalSteps, minRatio: settings.minLrRatio };
  const rate = (step: number): number => settings.lr * multiplier(step, schedule);
  const counts: number[] = []; // responses of each pass, in the order in which their scores are read

  const task: StepTask = {
    totalSteps: order.totalSteps,
    async submit(step) {
      upload(totals, nothing);
      if (settings.dropout > 0) upload(dropoutState, Uint32Array.of(settings.seed, step));
      const batch = batchOf(step);
      const scored = batch.filter(hasStrictPair).length;
      const reads: Staged[] = [];
      for (const { part, rows } of promptBatches(batch, budget)) {
        const pass = await passes.run(packRows(rows, config), ({ extra }) => feedRankings(extra, part, 1 / Math.max(1, scored)));
        reads.push(stage(pass.scores));
        counts.push(part.reduce((sum, { responses }) => sum + responses.length, 0));
      }
      await optimizer.step(step + 1, rate(step));
      return stagedAll([...reads, stage(totals, optimizer.norm)]);
    },
    metrics(step, values) {
      const [sums, norm] = values.slice(-2);
      const rewards = values.slice(0, -2).flatMap((scores) => [...scores.subarray(0, counts.shift()!)]);
      return {
        loss: sums[0],
        ...(sums[5] > 0 ? { accuracy: sums[6] / sums[5], margin: sums[7] / sums[5] } : {}), // a batch may hold ties alone
        mean_reward: average(rewards),
        grad_norm: norm[0],
        lr: rate(step),
        epoch: (step + 1) / order.perEpoch,
        tokens: batchOf(step).reduce((sum, r) => sum + tokensOf(r), 0),
      };
    },
    async evaluate(finished) {
      const due = finished === order.totalSteps || finished % order.perEpoch === 0
        || settings.evalEvery > 0 && finished % settings.evalEvery === 0;
      if (!heldOut || !due) return undefined;
      const report = rankingReport(await scoreRankings(scorer, [...heldOut.rankings]));
      return { eval_loss: report.loss, eval_accuracy: report.accuracy, eval_margin: report.margin, eval_mean_reward: report.mean_reward,
        eval_calibration_error: report.calibration_error };
    },
    parts: [{ name: 'model', weights: trained.parameters, flats: trained.flats }, ...optimizer.parts],
    passes: [passes],
  };
  const done = await runSteps('train-rm', task, folder, settings, context);

  await afterSteps(task, folder, done, undefined, async () => {
    model.rewardBias -= average(await scorer.scores(standard(), context.signal));
    await trained.save(settings.out!, Object.fromEntries(tokenizer.files));
  });
  const summary = { out: settings.out, steps: done, reward_bias: model.rewardBias, ...memoryReport(chosen), padding: paddingShare(passes) };
  await folder.end(summary, done === order.totalSteps);
  await context.stdout.write(JSON.stringify({ command: 'train-rm', ...summary, ...lastMetrics(folder.metrics.path) }));
}

function rankingObjective({ scores, gradient }: PassTensors, totals: Tensor): RankingFeeds {
  const prompts = Math.ceil(scores.rows / 2);
  const feeds: RankingFeeds = {
    ranks: vector(scores.rows),
    prompts: persistent(prompts, 2, 2),
    margins: vector(prompts),
    weights: vector(prompts),
    sumWeights: persistent(prompts, 2, 2),
    stats: persistent(prompts, 4),
  };
  rankingLoss({ rewards: scores, ...feeds, dRewards: gradient });
  weightedSum(feeds.stats, feeds.sumWeights, totals);
  return feeds;
}

/** Uploads a part of a batch; each prompt with a strict pair weighs `weight`. */
function feedRankings(feeds: RankingFeeds, part: readonly EncodedRanking[], weight: number): void {
  const prompts = new Uint32Array(feeds.prompts.rows * 2);
  const margins = new Float32Array(feeds.margins.rows);
  const weights = new Float32Array(feeds.weights.rows);
  const sumWeights = new Float32Array(feeds.sumWeights.rows * 2);
  const ranks = new Float32Array(feeds.ranks.rows);
  let first = 0;
  part.forEach((ranking, p) => {
    const { length } = ranking.ranks;
    prompts.set([first, length], 2 * p);
    ranks.set(levels(ranking.ranks), first);
    margins[p] = ranking.margin;
    weights[p] = hasStrictPair(ranking) ? weight : 0;
    sumWeights.set([weights[p], 1], 2 * p);
    first += length;
  });
  upload(feeds.prompts, prompts);
  upload(feeds.margins, margins);
  upload(feeds.weights, weights);
  upload(feeds.sumWeights, sumWeights);
  upload(feeds.ranks, ranks);
}

/** Ranks as their order among the prompt's: only that counts, and float32 holds it whatever their size. */
function levels(ranks: readonly number[]): number[] {
  const distinct = [...new Set(ranks)].sort((a, b) => a - b);
  return ranks.map((r) => distinct.indexOf(r));
}

/** A row for each response, with what a prompt's responses begin with computed once. */
const rowsOf = ({ responses }: EncodedRanking): PackRow[] =>
  shareBeginnings(responses.map((ids): PackRow => ({ ids, at: [ids.length - 1], key: keyOf(ids) })));

const tokensOf = ({ responses }: EncodedRanking): number => responses.reduce((sum, ids) => sum + ids.length, 0);

/** A number that stands for a row's content, so that dropout masks follow the row and not its place in a batch. */
const keyOf = (ids: Int32Array): number => ids.reduce((hash, id) => Math.imul(hash ^ id, 0x01000193) >>> 0, 0x811c9dc5);

/** Whole prompts, each with its rows, in passes of at most `budget` tokens: a prompt's pairs are never split. */
function promptBatches(batch: readonly EncodedRanking[], budget: number): { part: EncodedRanking[]; rows: PackRow[] }[] {
  const prompts = batch.map((ranking) => ({ ranking, rows: rowsOf(ranking) }));
  return [...inPasses(prompts, ({ rows }) => packedTokens(rows), budget)].map((part) =>
    ({ part: part.map(({ ranking }) => ranking), rows: part.flatMap(({ rows }) => rows) }));
}

/** At most k of a prompt's responses: a seeded draw an epoch, in their own order. */
function atMost(ranking: EncodedRanking, k: number | undefined, seed: number, epoch: number, row: number): EncodedRanking {
  if (k === undefined || ranking.ranks.length <= k) return ranking;
  const chosen = [...new RandomStream(seed, 'subset', epoch, row).permutation(ranking.ranks.length).subarray(0, k)].sort((a, b) => a - b);
  return { ...ranking, responses: chosen.map((i) => ranking.responses[i]), ranks: chosen.map((i) => ranking.ranks[i]) };
}

/** Rewards of each ranking's responses under a reward model. */
export async function scoreRankings(scorer: Scorer, rankings: readonly EncodedRanking[]): Promise<ScoredRanking[]> {
  const scores = await scorer.scores(rankings.flatMap((r) => r.responses));
  let at = 0;
  return rankings.map(({ responses, ranks, margin }) => ({ rewards: scores.slice(at, (at += responses.length)), ranks, margin }));
}

interface RowSettings { truncate: boolean; skipLong: boolean; skipBadRows: boolean }

/** Reads ranking rows. */
export async function readRankings(sources: string[], tokenizer: Tokenizer, contextLength: number, settings: RowSettings,
  context: RunContext): Promise<{ rankings: RankingRows; hashes: Record<string, string> }> {
  const length = { context: contextLength, truncate: settings.truncate };
  const rankings = new RankingRows();
  const read = await readAll(sources, (value): EncodedRanking => {
    const { prompt, completions, finishReasons, ranks, margin } = asRanking(value);
    return {
      responses: encodeCompletions(tokenizer, encodePrompt(tokenizer, prompt), completions, finishReasons, length).ids,
      ranks,
      margin: margin ?? 0,
    };
  }, (ranking) => rankings.add(ranking), policyOf(settings, context));
  return { rankings, hashes: hashesOf(read.sources) };
}

/** Reads demonstrations as responses to be scored: a conversation is its last answer, after a prompt of all that comes before. */
async function readDemonstrations(sources: string[], tokenizer: Tokenizer, contextLength: number, settings: RowSettings,
  context: RunContext): Promise<{ rows: TokenRows; hashes: Record<string, string> }> {
  const length = { context: contextLength, truncate: settings.truncate };
  const rows = new TokenRows();
  const scored = (row: Demonstration): Int32Array => {
    if (row.kind !== 'chat') return encodeDemonstration(tokenizer, row, length).ids;
    const prompt = encodePrompt(tokenizer, row.messages.slice(0, -1));
    return encodeCompletions(tokenizer, prompt, [row.messages.at(-1)!.content], ['stop'], length).ids[0];
  };
  const read = await readAll(sources, (value) => scored(asDemonstration(value)), (ids) => rows.add(ids), policyOf(settings, context));
  return { rows, hashes: hashesOf(read.sources) };
}

const policyOf = ({ skipBadRows, skipLong }: RowSettings, context: RunContext): RowPolicy =>
  ({ skipBadRows, skipLong, warn: (line) => context.warn(line) });
