import type { RunContext } from '../context.ts';
import { collectRows, RowTooLong } from '../data/collect.ts';
import { encodePrompt } from '../data/encode.ts';
import { asPrompt, type Prompt } from '../data/rows.ts';
import { generate, type Response } from '../model/generate.ts';
import { loadModel, type Model } from '../model/load.ts';
import type { EvalSettings } from '../options.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { average, bootstrapInterval } from '../train/ranking_metrics.ts';
import { policyOf, type Report } from './eval.ts';
import { LogprobReader } from './judge.ts';
import { openReward, sameTokenizer } from './reward_source.ts';
import { stopAt } from './sample.ts';

interface PromptRow { prompt: Prompt; ids: Int32Array }

/**
 * What a policy's answers are worth: reward, length and KL to a baseline on its own samples (Σ_t log π − log π_base, mean over
 * answers), and its win rate over the baseline's answers by reward, ties half. Intervals are over prompts, paired.
 */
export async function evaluatePolicy(settings: EvalSettings, tokenizer: Tokenizer, context: RunContext): Promise<Report | undefined> {
  const policy = loadModel(settings.model!, { kind: 'lm' });
  if (settings.baseline) await sameTokenizer(settings.baseline, tokenizer, '--baseline');
  const baseline = settings.baseline ? loadModel(settings.baseline, { kind: 'lm' }) : undefined;
  const reward = settings.reward ? await openReward(settings.reward, tokenizer, context) : undefined;
  const { rows } = await collectRows(settings.data, (value): PromptRow => {
    const prompt = asPrompt(value);
    const ids = encodePrompt(tokenizer, prompt);
    if (ids.length < policy.config.context) return { prompt, ids };
    throw new RowTooLong(`the prompt has ${ids.length} tokens, the context ${policy.config.context} leaves no room for an answer`);
  }, policyOf(settings, context));
  if (settings.dryRun) return { rows: rows.length, parameters: policy.weights.count };

  const answers = await answerAll(policy, rows, tokenizer, settings, context, 'policy');
  const theirs = baseline && await answerAll(baseline, rows, tokenizer, settings, context, 'baseline');
  const scoresOf = (list: readonly Response[]) => reward!.scores(list.map(({ request, ids, finish }) => ({
    prompt: rows[request.row].prompt,
    ids: [...Array.from(request.prompt), ...ids],
    completion: tokenizer.decode(finish === 'stop' ? ids.slice(0, -1) : ids, { skipSpecialTokens: true }),
    finish,
  })));
  const rewards = reward && await scoresOf(answers);
  const baseRewards = reward && theirs && await scoresOf(theirs);
  const kl = baseline && await divergences(policy, baseline, answers, settings.batchSize);

  const over = (values: readonly number[]) => bootstrapInterval(values.length, (sample) => average([...sample].map((i) => values[i])),
    { resamples: settings.bootstrap, seed: settings.seed });
  const report: Report = { prompts: rows.length };
  const add = (name: string, values: readonly number[] | undefined): void => {
    if (values) Object.assign(report, { [name]: average(values), [`${name}_interval`]: over(values) });
  };
  add('reward', rewards);
  add('baseline_reward', baseRewards);
  add('reward_difference', rewards && baseRewards?.map((b, i) => rewards[i] - b));
  add('win_rate', rewards && baseRewards?.map((b, i) => (rewards[i] > b ? 1 : rewards[i] === b ? 0.5 : 0)));
  add('kl', kl);
  add('length', answers.map((a) => a.ids.length));
  add('baseline_length', theirs?.map((a) => a.ids.length));
  add('frac_eos', answers.map((a) => (a.finish === 'stop' ? 1 : 0)));
  return report;
}

/** One answer a prompt, in the prompts' order. */
async function answerAll(model: Model, rows: readonly PromptRow[], tokenizer: Tokenizer, settings: EvalSettings, context: RunContext,
  label: string): Promise<Response[]> {
  const requests = rows.map(({ ids }, row) => ({ prompt: ids, row, sample: 0, maxNewTokens: settings.maxNewTokens }));
  const draw = { temperature: settings.greedy ? 0 : settings.temperature, topK: settings.topK, topP: settings.topP, seed: settings.seed, iteration: 0 };
  const cut = settings.stop!.length > 0 ? stopAt(tokenizer, settings.stop!) : undefined;
  const answers: Response[] = [];
  let done = 0;
  context.progress.start(`answers of the ${label}`, { total: rows.length, unit: 'answers' });
  for await (const response of generate(model.decoder, requests, draw, { slots: settings.batchSize, ends: [...tokenizer.eosIds], cut })) {
    answers[response.request.row] = response;
    context.progress.update({ done: ++done });
  }
  context.progress.end();
  return answers;
}

/** Σ_t log π(y_t) − log π_base(y_t) of each answer: its mean over π's own samples is the KL divergence (k1). */
async function divergences(policy: Model, baseline: Model, answers: readonly Response[], batchSize: number): Promise<number[]> {
  const [ours, theirs] = [new LogprobReader(policy), new LogprobReader(baseline)];
  const sums: number[] = [];
  for (let first = 0; first < answers.length; first += batchSize) {
    const rows = answers.slice(first, first + batchSize).map(({ request, ids }) =>
      ({ ids: [...Array.from(request.prompt), ...ids], from: request.prompt.length }));
    const [a, b] = [await ours.logprobs(rows), await theirs.logprobs(rows)];
    a.forEach((values, i) => sums.push(values.reduce((sum, x, t) => sum + x - b[i][t], 0)));
  }
  return sums;
}
