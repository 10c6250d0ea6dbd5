import type { RunContext } from '../context.ts';
import { collectRows, RowError } from '../data/collect.ts';
import { encodePrompt, withRoom } from '../data/encode.ts';
import { asDemonstration, type Prompt } from '../data/rows.ts';
import { Generator } from '../model/generator.ts';
import { checkReader, loadModel, type Model } from '../model/load.ts';
import { prepare } from '../model/passes.ts';
import type { SftSettings } from '../options.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { longestOf } from '../train/micro_batches.ts';
import { average } from '../train/ranking_metrics.ts';
import { Scorer } from './judge.ts';
import { sameTokenizer } from './reward_source.ts';

/** Answers drawn side by side. */
const SLOTS = 32;

/** What a run that selects its epoch by reward has beside the training. */
export interface Selection {
  /** Makes what answering and scoring take, with passes of so many tokens. */
  work(passTokens: number): { generator: Generator; scorer: Scorer };
  /** Records the largest that a measurement will run, for planning. */
  plan(work: ReturnType<Selection['work']>): void;
  /** Records a decoding step; resolves when it is ready. */
  ready(work: ReturnType<Selection['work']>): Promise<void>;
  /** The mean reward of the model's answers as it is now; each time with the same random numbers. */
  measure(work: ReturnType<Selection['work']>): Promise<number>;
}

/**
 * Model selection as the paper did it (Ouyang et al. 2022, appendix C.1): by the mean reward of sampled answers to the held-out
 * demonstrations' prompts.
 * @throws UsageError where the reward model cannot read the answers, or a row has no prompt
 */
export async function openSelection(settings: SftSettings, model: Model, tokenizer: Tokenizer, context: RunContext): Promise<Selection> {
  await sameTokenizer(settings.selectByReward!, tokenizer, '--select-by-reward');
  const reward = loadModel(settings.selectByReward!, { dtype: settings.dtype, kind: 'reward' });
  const { rows: prompts } = await collectRows(settings.evalData!, (value) => {
    const row = asDemonstration(value);
    if (row.kind === 'text') throw new RowError('a text has no prompt to answer, which --select-by-reward needs');
    const prompt: Prompt = row.kind === 'pair' ? row.prompt : row.messages.slice(0, -1);
    return withRoom(tokenizer, encodePrompt(tokenizer, prompt), model.config.context, settings);
  }, { skipBadRows: settings.skipBadRows, skipLong: true, warn: (line) => context.warn(line) });
  const length = Math.min(model.config.context, longestOf(prompts) + settings.maxNewTokens);
  checkReader('--select-by-reward', reward, model, length);
  const requests = prompts.map((ids, row) => ({ prompt: ids, row, sample: 0, maxNewTokens: settings.maxNewTokens }));
  const draw = { temperature: 1, topK: 0, topP: 1, seed: settings.seed, iteration: 0 };
  // Whatever is answered: each row begins as no other does, so that planned passes share nothing.
  const longest = (ids: Int32Array, i: number): Int32Array => new Int32Array(Math.min(length, ids.length + settings.maxNewTokens)).fill(i);
  return {
    work: (passTokens) => ({
      generator: new Generator(model.decoder, { slots: Math.min(SLOTS, prompts.length), length, ends: [...tokenizer.eosIds] }),
      scorer: new Scorer(reward, passTokens),
    }),
    plan({ generator, scorer }) {
      generator.prepare([...prompts].sort((a, b) => b.length - a.length).slice(0, SLOTS));
      prepare([scorer.upcoming(prompts.map(longest))]);
    },
    ready: ({ generator }) => generator.prepareStep(Math.min(SLOTS, prompts.length)),
    async measure({ generator, scorer }) {
      const answers: number[][] = [];
      for await (const { request, ids } of generator.run(requests, draw)) {
        answers.push([...Array.from(request.prompt), ...ids]);
      }
      return average(await scorer.scores(answers));
    },
  };
}
