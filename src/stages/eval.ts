import { readFileSync } from 'node:fs';
import type { RunContext } from '../context.ts';
import { collectRows, RowError, type RowPolicy } from '../data/collect.ts';
import { encodeCompletion, encodeDemonstration, encodePrompt } from '../data/encode.ts';
import type { JsonObject } from '../data/jsonl.ts';
import { packDocuments } from '../data/pack.ts';
import { asDemonstration, asPrompt } from '../data/rows.ts';
import { loadModel, loadTokenizer } from '../model/load.ts';
import type { EvalSettings } from '../options.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { average, bootstrapInterval, rankingReport } from '../train/ranking_metrics.ts';
import { openSession } from '../train/session.ts';
import { evaluatePolicy } from './eval_policy.ts';
import { LogprobReader, Scorer } from './judge.ts';
import { readRankings, scoreRankings } from './reward.ts';

/** What an evaluation found; `*_interval` are 95 % bootstrap intervals. */
export type Report = Record<string, unknown>;

/** Prints a report as one JSON object, and as lines on standard error. */
export async function evaluate(settings: EvalSettings, context: RunContext): Promise<void> {
  const tokenizer = await loadTokenizer(settings.model!);
  if (settings.chatTemplate) tokenizer.setChatTemplate(readFileSync(settings.chatTemplate, 'utf8'));
  await openSession(settings, context);
  const kinds = { rm: evaluateRewardModel, perplexity: evaluatePerplexity, policy: evaluatePolicy, 'multiple-choice': evaluateChoices };
  const report = await kinds[settings.kind](settings, tokenizer, context);
  if (!report) return;
  for (const [name, value] of Object.entries(report)) {
    if (typeof value === 'number') context.log(`${name.padEnd(28)} ${Number(value.toPrecision(5))}${intervalOf(report, name)}`);
  }
  await context.stdout.write(JSON.stringify({ command: `eval ${settings.kind}`, model: settings.model, ...report }));
}

function intervalOf(report: Report, name: string): string {
  const interval = report[`${name}_interval`] as [number, number] | undefined;
  return interval ? `  [${interval.map((x) => Number(x.toPrecision(4))).join(', ')}]` : '';
}

/** The rules for rows that all evaluations share. */
export const policyOf = (settings: EvalSettings, context: RunContext): RowPolicy =>
  ({ skipBadRows: settings.skipBadRows, skipLong: settings.skipLong, warn: (line) => context.warn(line) });

/** Loss, accuracy and calibration of a reward model on held-out rankings; intervals over prompts. */
async function evaluateRewardModel(settings: EvalSettings, tokenizer: Tokenizer, context: RunContext): Promise<Report | undefined> {
  const model = loadModel(settings.model!, { kind: 'reward' });
  const { rankings } = await readRankings(settings.data, tokenizer, model.config.context, settings, context);
  if (settings.dryRun) return { prompts: rankings.length, parameters: model.weights.count };
  const scored = await scoreRankings(new Scorer(model), rankings);
  const report = rankingReport(scored);
  const options = { resamples: settings.bootstrap, seed: settings.seed };
  const over = (key: 'loss' | 'accuracy' | 'mean_reward') =>
    bootstrapInterval(scored.length, (sample) => rankingReport([...sample].map((i) => scored[i]))[key], options);
  return { ...report, loss_interval: over('loss'), accuracy_interval: over('accuracy'), mean_reward_interval: over('mean_reward') };
}

/**
 * Mean negative log-likelihood a token: of text in packed rows of context length, or of demonstrations' response tokens;
 * the interval is over rows.
 */
async function evaluatePerplexity(settings: EvalSettings, tokenizer: Tokenizer, context: RunContext): Promise<Report | undefined> {
  const model = loadModel(settings.model!, { kind: 'lm' });
  const length = { context: model.config.context, truncate: settings.truncate };
  const texts: Int32Array[] = [];
  const demonstrations: { ids: Int32Array; mask: Uint8Array }[] = [];
  await collectRows(settings.data, (value) => {
    const row = asDemonstration(value);
    if (row.kind !== 'text') demonstrations.push(encodeDemonstration(tokenizer, row, length));
    else texts.push(encodeDemonstration(tokenizer, row).ids);
    return 1;
  }, { ...policyOf(settings, context), plainText: true });
  if (settings.dryRun) return { rows: texts.length + demonstrations.length, parameters: model.weights.count };

  // Each document of a packed row is a row of its own here: attention restarts there anyway.
  const rows: { parts: { ids: ArrayLike<number>; from: number; mask?: Uint8Array }[] }[] = demonstrations.map(({ ids, mask }) =>
    ({ parts: [{ ids, from: 1, mask: mask.subarray(1) }] }));
  for await (const { ids, segments } of packDocuments(texts, model.config.context)) {
    rows.push({ parts: segments.filter(([, n]) => n > 1).map(([start, n]) => ({ ids: ids.subarray(start, start + n), from: 1 })) });
  }
  const reader = new LogprobReader(model);
  const units: { nll: number; tokens: number }[] = [];
  context.progress.start('eval perplexity', { total: rows.length, unit: 'rows' });
  for (let first = 0; first < rows.length; first += settings.batchSize) {
    const group = rows.slice(first, first + settings.batchSize);
    const all = await reader.logprobs(group.flatMap((r) => r.parts));
    let at = 0;
    for (const { parts } of group) {
      const unit = { nll: 0, tokens: 0 };
      for (const { mask } of parts) {
        all[at++].forEach((logp, i) => {
          if (mask && !mask[i]) return;
          unit.nll -= logp;
          unit.tokens++;
        });
      }
      units.push(unit);
    }
    context.progress.update({ done: Math.min(rows.length, first + settings.batchSize) });
  }
  context.progress.end();
  const loss = (list: readonly { nll: number; tokens: number }[]): number =>
    list.reduce((sum, u) => sum + u.nll, 0) / list.reduce((sum, u) => sum + u.tokens, 0);
  const mean = loss(units);
  const interval = bootstrapInterval(units.length, (sample) => loss([...sample].map((i) => units[i])), { resamples: settings.bootstrap, seed: settings.seed });
  return {
    loss: mean,
    loss_interval: interval,
    perplexity: Math.exp(mean),
    perplexity_interval: interval.map(Math.exp),
    tokens: units.reduce((sum, u) => sum + u.tokens, 0),
    rows: units.length,
  };
}

interface Choice { promptIds: Int32Array; ids: Int32Array[]; bytes: number[]; answer: number }

/** Accuracy of picking the answer by log-probability: summed, a token, and a byte of the choice's text. */
async function evaluateChoices(settings: EvalSettings, tokenizer: Tokenizer, context: RunContext): Promise<Report | undefined> {
  const model = loadModel(settings.model!, { kind: 'lm' });
  const length = { context: model.config.context, truncate: settings.truncate };
  const { rows } = await collectRows(settings.data, (value): Choice => {
    const { choices, answer } = choicesOf(value);
    const promptIds = encodePrompt(tokenizer, asPrompt(value));
    return {
      promptIds,
      ids: choices.map((text) => encodeCompletion(tokenizer, promptIds, text, 'length', length).ids),
      bytes: choices.map((text) => Buffer.byteLength(text)),
      answer,
    };
  }, policyOf(settings, context));
  if (settings.dryRun) return { rows: rows.length, parameters: model.weights.count };
  const reader = new LogprobReader(model);
  const right: Record<'sum' | 'token' | 'byte', number[]> = { sum: [], token: [], byte: [] };
  for (let first = 0; first < rows.length; first += settings.batchSize) {
    const group = rows.slice(first, first + settings.batchSize);
    const all = await reader.logprobs(group.flatMap(({ ids, promptIds }) => ids.map((row) => ({ ids: row, from: promptIds.length }))));
    let at = 0;
    for (const { ids, bytes, answer } of group) {
      const found = all.slice(at, (at += ids.length));
      const sums = found.map((values) => values.reduce((sum, x) => sum + x, 0));
      const best = (list: number[]): number => (list.indexOf(Math.max(...list)) === answer ? 1 : 0);
      right.sum.push(best(sums));
      right.token.push(best(sums.map((s, i) => s / Math.max(1, found[i].length))));
      right.byte.push(best(sums.map((s, i) => s / Math.max(1, bytes[i]))));
    }
  }
  const over = (list: readonly number[]) => bootstrapInterval(list.length, (sample) => average([...sample].map((i) => list[i])),
    { resamples: settings.bootstrap, seed: settings.seed });
  return {
    accuracy: average(right.sum),
    accuracy_interval: over(right.sum),
    accuracy_per_token: average(right.token),
    accuracy_per_token_interval: over(right.token),
    accuracy_per_byte: average(right.byte),
    accuracy_per_byte_interval: over(right.byte),
    rows: rows.length,
  };
}

function choicesOf(value: JsonObject): { choices: string[]; answer: number } {
  const { choices, answer } = value;
  if (!Array.isArray(choices) || choices.length < 2 || choices.some((c) => typeof c !== 'string' || c === '')) {
    throw new RowError('"choices" must be a list of two or more texts');
  }
  if (!Number.isInteger(answer) || (answer as number) < 0 || (answer as number) >= choices.length) {
    throw new RowError('"answer" must be the number of a choice, counted from 0');
  }
  return { choices: choices as string[], answer: answer as number };
}
