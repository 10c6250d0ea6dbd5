import { stage, type Staged } from '../gpu/tensor.ts';
import { packRows } from '../model/batch.ts';
import type { ModelConfig } from '../model/config.ts';
import type { Generator } from '../model/generator.ts';
import type { Passes } from '../model/passes.ts';
import type { Prompt } from '../data/rows.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { microBatches } from '../train/micro_batches.ts';
import type { Episode } from './ppo_rollout.ts';
import { updateRow } from './ppo_update.ts';

/** A prompt as it was read, and its ids. */
export interface PromptRow { prompt: Prompt; ids: Int32Array }

/** Step 1: one response to each chosen prompt, drawn by (seed, iteration, row of the prompt, pass over the prompts, position). */
export async function rollOut(generator: Generator, chosen: readonly (PromptRow & { row: number; pass: number })[], tokenizer: Tokenizer,
  settings: { maxNewTokens: number; temperature: number; seed: number }, iteration: number): Promise<Episode[]> {
  const requests = chosen.map(({ ids, row, pass }) => ({ prompt: ids, row, sample: pass, maxNewTokens: settings.maxNewTokens }));
  const place = new Map(requests.map((request, i) => [request, i]));
  const episodes = new Array<Episode>(chosen.length);
  const draw = { temperature: settings.temperature, topK: 0, topP: 1, seed: settings.seed, iteration };
  const none = new Float32Array();
  for await (const { request, ids, finish } of generator.run(requests, draw)) {
    const i = place.get(request as (typeof requests)[number])!;
    const { prompt, ids: promptIds } = chosen[i];
    const text = finish === 'stop' ? ids.slice(0, -1) : ids;
    episodes[i] = {
      prompt,
      promptIds,
      completion: tokenizer.decode(text, { skipSpecialTokens: true }),
      ids: Int32Array.from([...promptIds, ...ids]),
      finish,
      score: NaN,
      logprobs: none, refLogprobs: none, entropies: none, values: none, rewards: none, advantages: none, returns: none,
    };
  }
  return episodes;
}

/**
 * Step 3: log-probabilities and entropies under the policy, log-probabilities under the reference, and values, each read at the
 * place before its token, through the kernels and the row layout of the update's forward pass.
 */
export async function compare(episodes: readonly Episode[], passes: { policyPasses: Passes; referencePasses: Passes; valuePasses: Passes },
  policy: { config: ModelConfig }, budget: number): Promise<void> {
  // Everything is submitted before the first wait: the device goes on while results are copied.
  const submitted: { part: ReturnType<typeof updateRow>[]; firstPick: number[]; staged: Staged }[] = [];
  for (const part of microBatches(episodes.map(updateRow), budget)) {
    const batch = packRows(part, policy.config);
    const [ours, theirs, worth] = [await passes.policyPasses.run(batch), await passes.referencePasses.run(batch), await passes.valuePasses.run(batch)];
    submitted.push({ part, firstPick: batch.firstPick, staged: stage(ours.stats, theirs.stats, worth.scores) });
  }
  for (const { part, firstPick, staged } of submitted) {
    const [stats, refStats, values] = (await staged.read()).map((bytes) => new Float32Array(bytes));
    part.forEach(({ episode, at }, r) => {
      const first = firstPick[r];
      const column = (from: Float32Array, c: number): Float32Array => Float32Array.from({ length: at.length }, (_, i) => from[4 * (first + i) + c]);
      episode.logprobs = column(stats, 0);
      episode.entropies = column(stats, 1);
      episode.refLogprobs = column(refStats, 0);
      episode.values = values.slice(first, first + at.length);
    });
  }
}
