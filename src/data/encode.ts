import { ChatTemplateError } from '../text/chat_template.ts';
import { TokenError, type Tokenizer } from '../text/tokenizer.ts';
import { RowError, RowTooLong } from './collect.ts';
import type { Demonstration, FinishReason, Prompt } from './rows.ts';

/**
 * How long a row may be. Too long is a RowTooLong, unless `truncate` cuts it: the end of the response (with its EOS); where the
 * prompt alone is too long, the beginning of the prompt, so that the responses fit or have half of the context.
 */
export interface LengthPolicy {
  context: number;
  truncate?: boolean;
}

/** Ids of a demonstration; `mask` is 1 where the token is to be learnt (never the first, which nothing predicts). */
export interface EncodedDemonstration {
  ids: Int32Array;
  mask: Uint8Array;
}

/**
 * A prompt's ids: the tokenizer's own leading special tokens and the text, or the conversation rendered with the
 * generation prompt. An empty list is a RowError: there would be nothing to condition on.
 */
export function encodePrompt(tokenizer: Tokenizer, prompt: Prompt): Int32Array {
  const ids = refused(() => (typeof prompt === 'string' ? tokenizer.encodePrompt(prompt) : tokenizer.chatIds(prompt, { addGenerationPrompt: true })));
  if (ids.length === 0) throw new RowError('the prompt is empty, and the tokenizer puts no BOS before it');
  return Int32Array.from(ids);
}

/**
 * The ids of a prompt that leaves room for an answer in the context; with `truncate` what is longer loses its beginning, so that there is room
 * for `maxNewTokens`. Throws RowTooLong where it does not fit.
 */
export function withRoom(tokenizer: Tokenizer, ids: Int32Array, context: number,
  { truncate, maxNewTokens }: { truncate: boolean; maxNewTokens: number }): Int32Array {
  if (ids.length < context) return ids;
  if (!truncate) throw new RowTooLong(`the prompt has ${ids.length} tokens, the context ${context} leaves no room for an answer`);
  return endOfPrompt(tokenizer, ids, Math.max(1, context - maxNewTokens));
}

/** The last `length` ids of a prompt, whose end matters most; of those the first are the tokenizer's leading special tokens where the prompt begins with them. */
export function endOfPrompt({ prefixIds }: Tokenizer, ids: Int32Array, length: number): Int32Array {
  if (ids.length <= length) return ids;
  const cut = ids.slice(ids.length - length);
  if (length > prefixIds.length && prefixIds.every((id, i) => ids[i] === id)) cut.set(prefixIds);
  return cut;
}

/**
 * Prompt, completion and EOS of each completion, tokenised by themselves; no EOS after a completion that was cut off (`length`). All
 * completions follow the same prompt, and `promptIds` is what is left of it.
 */
export function encodeCompletions(
  tokenizer: Tokenizer,
  promptIds: Int32Array,
  completions: readonly string[],
  finishReasons: readonly FinishReason[],
  policy?: LengthPolicy,
): { promptIds: Int32Array; ids: Int32Array[] } {
  const responses = completions.map((text, i) => {
    const response = refused(() => tokenizer.encode(text));
    if (finishReasons[i] === 'stop') response.push(tokenizer.eosId);
    return response;
  });
  const begin = policy?.truncate ? cutPrompt(promptIds.length, Math.max(...responses.map(({ length }) => length)), policy.context) : 0;
  const prompt = endOfPrompt(tokenizer, promptIds, promptIds.length - begin);
  const ids = responses.map((response) => Int32Array.from([...prompt, ...response].slice(0, fit(prompt.length + response.length, policy))));
  return { promptIds: prompt, ids };
}

/** Where to begin a prompt that alone fills the context: its end matters most, and responses may have half of the context. */
const cutPrompt = (length: number, response: number, context: number): number =>
  length < context ? 0 : length - Math.max(Math.floor(context / 2), context - response);

/**
 * A demonstration's ids and what is to be learnt: the completion with its EOS (none where it was cut off); in a conversation each assistant turn
 * with its end-of-turn token (those of the prompt left out); in a plain text everything.
 */
export function encodeDemonstration(
  tokenizer: Tokenizer,
  row: Demonstration,
  policy?: LengthPolicy,
): EncodedDemonstration {
  if (row.kind === 'text') {
    const ids = encodeDocument(tokenizer, row.text);
    const length = fit(ids.length, policy);
    return { ids: ids.slice(0, length), mask: new Uint8Array(length).fill(1, 1) };
  }
  if (row.kind === 'pair') {
    const { promptIds, ids: [ids] } = encodeCompletions(tokenizer, encodePrompt(tokenizer, row.prompt), [row.completion], [row.finishReason], policy);
    return { ids: ids!, mask: new Uint8Array(ids!.length).fill(1, promptIds.length) };
  }
  const { ids, turns } = refused(() => tokenizer.chatTurns(row.messages));
  const learnt = turns.filter(({ index, begin, end }) => index >= row.given && end > begin);
  if (learnt.length === 0) throw new RowError('the chat template leaves nothing of the assistant\'s turns');
  const first = policy?.truncate ? cutPrompt(learnt[0].begin, ids.length - learnt[0].begin, policy.context) : 0;
  const length = fit(ids.length - first, policy);
  const mask = new Uint8Array(length);
  for (const { begin, end } of learnt) mask.fill(1, Math.max(begin - first, 1), Math.max(end - first, 0));
  return { ids: Int32Array.from(ids).slice(first, first + length), mask };
}

/** A document for pretraining: BOS where the tokenizer has one, the text, EOS. */
export function encodeDocument(tokenizer: Tokenizer, text: string): Int32Array {
  const bos = tokenizer.bosId === undefined ? [] : [tokenizer.bosId];
  return Int32Array.from([...bos, ...refused(() => tokenizer.encode(text)), tokenizer.eosId]);
}

/** The length to keep of a row. */
function fit(length: number, policy: LengthPolicy | undefined): number {
  if (!policy || length <= policy.context) return length;
  if (!policy.truncate) throw new RowTooLong(`${length} tokens, the context has ${policy.context}`);
  return policy.context;
}

/** A conversation that the template refuses is a bad row, and so is a text with a token that the model does not have. */
function refused<T>(encode: () => T): T {
  try {
    return encode();
  } catch (error) {
    throw error instanceof ChatTemplateError || error instanceof TokenError ? new RowError(error.message) : error;
  }
}
