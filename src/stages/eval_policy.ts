import type { RunContext } from '../context.ts';
import { collectRows } from '../data/collect.ts';
import { encodeCompletions, encodePrompt, withRoom } from '../data/encode.ts';
import { asPrompt, type Prompt } from '../data/rows.ts';
import { Interrupted } from '../errors.ts';
import type { SamplerSettings } from '../gpu/ops/sampler.ts';
import { generate } from '../model/generate.ts';
import type { Response } from '../model/generator.ts';
import { checkReader, loadModel, type Model } from '../model/load.ts';
import type { EvalSettings } from '../options.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { ratio } from '../train/bootstrap.ts';
import { inGroups, measured, rowPolicy, type Report } from './eval_report.ts';
import { LogprobReader } from './judge.ts';
import { openReward, sameTokenizer, type Answer } from './reward_source.ts';
import { stopAt, textOf } from './sample.ts';

interface PromptRow { prompt: Prompt; ids: Int32Array }

/**
 * What a policy's answers are worth, beside a baseline's to the same prompts: reward, win rate by reward (ties half), length in
 * tokens, share of answers that end with EOS, and KL(policy ‖ baseline) a sequence. Intervals over prompts, in pairs.
 */
export async function evaluatePolicy(settings: EvalSettings, tokenizer: Tokenizer, context: RunContext): Promise<Report> {
  const policy = loadModel(settings.model!, { dtype: settings.dtype, kind: 'lm' });
  if (settings.baseline) await sameTokenizer(settings.baseline, tokenizer, '--baseline');
  const baseline = settings.baseline ? loadModel(settings.baseline, { dtype: settings.dtype, kind: 'lm' }) : undefined;
  const reward = settings.reward ? await openReward(settings.reward, tokenizer, context, settings) : undefined;
  // Each model reads ids that the others drew; how long rows may be is settled by the smallest context.
  for (const writer of [policy, ...(baseline ? [baseline] : [])]) {
    if (baseline) checkReader('--baseline', baseline, writer, 0);
    if (reward?.model) checkReader('--reward', reward.model, writer, 0);
  }
  const room = Math.min(policy.config.context, baseline?.config.context ?? Infinity, reward?.model?.config.context ?? Infinity);
  const { rows } = await collectRows(settings.data, (value): PromptRow => {
    const prompt = asPrompt(value);
    return { prompt, ids: withRoom(tokenizer, encodePrompt(tokenizer, prompt), room, settings) };
  }, rowPolicy(settings, context));
  if (settings.dryRun) return { prompts: rows.length, parameters: policy.weights.count };

  const answersOf = (model: Model, label: string, draw: Draw): Promise<Response[]> =>
    answerAll(model, rows, room, label, draw, tokenizer, settings, context);
  const chosen: Draw = { temperature: settings.greedy ? 0 : settings.temperature, topK: settings.topK, topP: settings.topP, stop: settings.stop! };
  const own = await answersOf(policy, 'the policy', chosen);
  const theirs = baseline && await answersOf(baseline, 'the baseline', chosen);
  const scored = (answers: readonly Response[]): Promise<number[]> =>
    reward!.scores(answers.map((answer) => answered(answer, rows[answer.request.row].prompt, room, tokenizer, settings.stop!)));
  const rewards = reward && await scored(own);
  const baseRewards = reward && theirs && await scored(theirs);
  // The estimator needs samples of the policy itself: where the answers were drawn otherwise, the KL has its own.
  const itself: Draw = { temperature: 1, topK: 0, topP: 1, stop: [] };
  const samples = baseline && (same(chosen, itself) ? own : await answersOf(policy, 'the policy at temperature 1', itself));
  const kl = baseline && await divergences(policy, baseline, samples!, settings, context);

  const lengths = (answers: readonly Response[]): number[] => answers.map((a) => a.ids.length);
  const ended = (answers: readonly Response[]): number[] => answers.map((a) => Number(a.finish === 'stop'));
  const minus = (a: readonly number[], b: readonly number[]): number[] => a.map((x, i) => x - b[i]);
  const mean = (values: readonly number[] | undefined) => values && ratio(values);
  return {
    prompts: rows.length,
    ...measured(rows.length, {
      reward: mean(rewards),
      baseline_reward: mean(baseRewards),
      reward_difference: mean(baseRewards && minus(rewards!, baseRewards)),
      win_rate: mean(baseRewards && minus(rewards!, baseRewards).map((d) => (d > 0 ? 1 : d === 0 ? 0.5 : 0))),
      kl: mean(kl),
      length: mean(lengths(own)),
      baseline_length: mean(theirs && lengths(theirs)),
      length_difference: mean(theirs && minus(lengths(own), lengths(theirs))),
      frac_eos: mean(ended(own)),
      baseline_frac_eos: mean(theirs && ended(theirs)),
    }, settings),
  };
}

/** How answers are drawn. */
type Draw = Pick<SamplerSettings, 'temperature' | 'topK' | 'topP'> & { stop: readonly string[] };

const same = (a: Draw, b: Draw): boolean =>
  a.temperature === b.temperature && a.topK === b.topK && a.topP === b.topP && a.stop.length === b.stop.length;

/** One answer a prompt, in the prompts' order; every model draws with the same random numbers. */
async function answerAll(model: Model, rows: readonly PromptRow[], room: number, label: string, draw: Draw, tokenizer: Tokenizer,
  settings: EvalSettings, context: RunContext): Promise<Response[]> {
  const requests = rows.map(({ ids }, row) =>
    ({ prompt: ids, row, sample: 0, maxNewTokens: Math.min(settings.maxNewTokens, room - ids.length) }));
  const cut = draw.stop.length > 0 ? stopAt(tokenizer, draw.stop) : undefined;
  const answers = new Array<Response>(rows.length);
  let done = 0;
  context.progress.start(`answers of ${label}`, { total: rows.length, unit: 'answers' });
  const options = { slots: settings.batchSize, memory: settings.memory, ends: [...tokenizer.eosIds], cut };
  for await (const response of generate(model.decoder, requests, { ...draw, seed: settings.seed, iteration: 0 }, options)) {
    answers[response.request.row] = response;
    context.progress.update({ done: ++done });
    if (context.signal.aborted) throw new Interrupted();
  }
  context.progress.end();
  return answers;
}

/** What is scored of a response: the sampled ids; where a stop text cut it, the text before that with EOS. */
function answered(response: Response, prompt: Prompt, context: number, tokenizer: Tokenizer, stops: readonly string[]): Answer {
  const { request, ids, finish } = response;
  const completion = textOf(tokenizer, response, stops);
  const wasCut = finish === 'stop' && !tokenizer.eosIds.has(ids.at(-1)!);
  return {
    prompt,
    ids: wasCut ? encodeCompletions(tokenizer, Int32Array.from(request.prompt), [completion], ['stop'], { context, truncate: true }).ids[0]
      : Int32Array.from([...Array.from(request.prompt), ...ids]),
    completion,
    finish,
  };
}

/** Σ_t log π(y_t) − log π_base(y_t) of each answer: its mean over π's own samples is the KL divergence a sequence (k1). */
async function divergences(policy: Model, baseline: Model, answers: readonly Response[], settings: EvalSettings, context: RunContext): Promise<number[]> {
  const [ours, theirs] = [LogprobReader.within(settings.memory, policy), LogprobReader.within(settings.memory, baseline)];
  const sums: number[] = [];
  await inGroups('KL', answers, settings, context, async (group) => {
    const rows = group.map(({ request, ids }) => ({ ids: [...Array.from(request.prompt), ...ids], from: request.prompt.length }));
    const [a, b] = [await ours.logprobs(rows), await theirs.logprobs(rows)];
    a.forEach((values, i) => sums.push(values.reduce((sum, x, t) => sum + x - b[i][t], 0)));
  });
  return sums;
}
