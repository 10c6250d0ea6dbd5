import type { RunContext } from '../context.ts';
import { patienceWith } from '../data/arrivals.ts';
import { streamRows } from '../data/collect.ts';
import { encodePrompt, withRoom } from '../data/encode.ts';
import type { Row } from '../data/jsonl.ts';
import { withFields } from '../data/output_row.ts';
import { asPrompt } from '../data/rows.ts';
import { Interrupted } from '../errors.ts';
import { generate } from '../model/generate.ts';
import type { Request, Response } from '../model/generator.ts';
import { loadModel, loadTokenizer } from '../model/load.ts';
import type { SampleSettings } from '../options.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { openSession } from '../train/session.ts';

/** Answers prompts, K times each, and writes each row as soon as it and those before it are done. */
export async function sample(settings: SampleSettings, context: RunContext): Promise<void> {
  const tokenizer = await loadTokenizer(settings.model!, settings.chatTemplate);
  const opened = await openSession(settings, context);
  const model = loadModel(settings.model!, { dtype: settings.dtype, kind: 'lm' });
  const { config } = model;
  if (settings.dryRun) {
    await context.stdout.write(JSON.stringify({ command: 'sample', settings, parameters: model.weights.count, adapter: opened.info.description }));
    return;
  }
  const answers = settings.k ?? 1;
  const { index, count } = settings.shard;
  const waiting: { row: Row; number: number; responses: (Response | undefined)[]; left: number }[] = [];
  const entries = new Map<number, (typeof waiting)[number]>();
  const read = streamRows(settings.data, (value) => withRoom(tokenizer, encodePrompt(tokenizer, asPrompt(value)), config.context, settings), { skipBadRows: settings.skipBadRows, skipLong: settings.skipLong, warn: (line) => context.warn(line) });

  // A bad row is an error only after the rows before it have been answered and written.
  let failure: unknown;
  async function* requests(): AsyncGenerator<Request> {
    let number = -1;
    try {
      for await (const { row, item } of read) {
        number++;
        if (number % count !== index) continue;
        if (context.signal.aborted) return;
        const entry = { row, number, responses: new Array<Response | undefined>(answers).fill(undefined), left: answers };
        waiting.push(entry);
        entries.set(number, entry);
        for (let k = 0; k < answers; k++) yield { prompt: item, row: number, sample: k, maxNewTokens: settings.maxNewTokens };
      }
    } catch (error) {
      failure = error;
    }
  }

  context.progress.start('sample', { unit: 'answers' });
  let done = 0;
  const draw = { temperature: settings.greedy ? 0 : settings.temperature, topK: settings.topK, topP: settings.topP, seed: settings.seed, iteration: 0 };
  const ends = [...tokenizer.eosIds];
  const cut = settings.stop!.length > 0 ? stopAt(tokenizer, settings.stop!) : undefined;
  const options = { slots: settings.batchSize, memory: settings.memory, ends, cut, patience: patienceWith(settings.data) };
  for await (const response of generate(model.decoder, requests(), draw, options)) {
    const entry = entries.get(response.request.row)!;
    entry.responses[response.request.sample] = response;
    entry.left--;
    context.progress.update({ done: ++done });
    while (waiting[0]?.left === 0) {
      const { row, number, responses } = waiting.shift()!;
      entries.delete(number);
      const texts = responses.map((r) => textOf(tokenizer, r!, settings.stop!));
      const reasons = responses.map((r) => r!.finish);
      await context.stdout.write(withFields(row, { ...saidOfOldAnswers(row), ...settings.k === undefined
        ? { completion: texts[0], completions: undefined, finish_reason: reasons[0] }
        : { completion: undefined, completions: texts, finish_reason: reasons } }));
    }
  }
  context.progress.end();
  if (context.signal.aborted) throw new Interrupted();
  if (failure) throw failure;
}

/** Fields that `score`, `logprobs` and `label` give answers: where a row had answers, they would be taken for those of the new ones. */
const OF_ANSWERS = ['reward', 'rewards', 'tokens', 'logprobs', 'sum', 'ranks'];

function saidOfOldAnswers({ value }: Row): Record<string, undefined> {
  const answered = ['completion', 'completions'].some((field) => Object.hasOwn(value, field));
  return answered ? Object.fromEntries(OF_ANSWERS.map((field) => [field, undefined])) : {};
}

/** The response's text: without its end token, and cut before a stop text. */
export function textOf(tokenizer: Tokenizer, { ids, finish }: Response, stops: readonly string[]): string {
  const body = finish === 'stop' && tokenizer.eosIds.has(ids.at(-1)!) ? ids.slice(0, -1) : ids;
  const text = tokenizer.decode(body, { skipSpecialTokens: true });
  const at = Math.min(...stops.map((stop) => text.indexOf(stop)).filter((i) => i >= 0));
  return Number.isFinite(at) ? text.slice(0, at) : text;
}

/** Ends a response as soon as its text holds one of `stops`. */
export const stopAt = (tokenizer: Tokenizer, stops: readonly string[]) => (ids: readonly number[]): number | undefined => {
  const has = (count: number): boolean => {
    const text = tokenizer.decode(ids.slice(0, count), { skipSpecialTokens: true });
    return stops.some((stop) => text.includes(stop));
  };
  if (!has(ids.length)) return undefined;
  let low = 1; // the fewest tokens whose text holds a stop: so the cut does not depend on when it is looked at
  let high = ids.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (has(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
};
