import type { RunContext } from '../context.ts';
import { collectRows, RowError, RowTooLong } from '../data/collect.ts';
import { encodePrompt } from '../data/encode.ts';
import { asDemonstration, type Prompt } from '../data/rows.ts';
import { generate } from '../model/generate.ts';
import { checkReader, type Model } from '../model/load.ts';
import type { SftSettings } from '../options.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { average } from '../train/ranking_metrics.ts';
import { openReward, sameTokenizer } from './reward_source.ts';

/**
 * Model selection as the paper did it (Ouyang et al. 2022, appendix C.1): the mean reward of sampled answers to the held-out
 * demonstrations' prompts. Returns a function that measures the model as it is then; each time with the same random numbers.
 */
export async function rewardOfAnswers(settings: SftSettings, model: Model, tokenizer: Tokenizer, context: RunContext): Promise<() => Promise<number>> {
  await sameTokenizer(settings.selectByReward!, tokenizer, '--select-by-reward');
  const reward = await openReward(settings.selectByReward!, tokenizer, context, settings.dtype);
  const { rows: prompts } = await collectRows(settings.evalData!, (value) => {
    const row = asDemonstration(value);
    if (row.kind === 'text') throw new RowError('a text has no prompt to answer, which --select-by-reward needs');
    const prompt: Prompt = row.kind === 'pair' ? row.prompt : row.messages.slice(0, -1);
    const ids = encodePrompt(tokenizer, prompt);
    if (ids.length < model.config.context) return { prompt, ids };
    throw new RowTooLong(`the prompt has ${ids.length} tokens, the context ${model.config.context} leaves no room for an answer`);
  }, { skipBadRows: settings.skipBadRows, skipLong: true, warn: (line) => context.warn(line) });
  const longest = Math.max(...prompts.map(({ ids }) => ids.length)) + settings.maxNewTokens;
  if (reward.model) checkReader('--select-by-reward', reward.model, model, Math.min(model.config.context, longest));
  const requests = prompts.map(({ ids }, row) => ({ prompt: ids, row, sample: 0, maxNewTokens: settings.maxNewTokens }));
  const draw = { temperature: 1, topK: 0, topP: 1, seed: settings.seed, iteration: 0 };
  return async () => {
    const answers = [];
    for await (const { request, ids, finish } of generate(model.decoder, requests, draw, { slots: 32, ends: [...tokenizer.eosIds] })) {
      answers.push({
        prompt: prompts[request.row].prompt,
        ids: [...Array.from(request.prompt), ...ids],
        completion: tokenizer.decode(finish === 'stop' ? ids.slice(0, -1) : ids, { skipSpecialTokens: true }),
        finish,
      });
    }
    return average(await reward.scores(answers));
  };
}
