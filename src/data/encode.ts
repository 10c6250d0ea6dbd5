import { ChatTemplateError } from '../text/chat_template.ts';
import { TokenError, type Tokenizer } from '../text/tokenizer.ts';
import { RowError, RowTooLong } from './collect.ts';
import type { Demonstration, FinishReason, Prompt } from './rows.ts';

/** How long a row may be. Too long is a RowTooLong, unless `truncate` cuts the end of the response (and its EOS). */
export interface LengthPolicy {
  context: number;
  truncate?: boolean;
}

/** Ids of a demonstration; `mask` is 1 where the token is to be learnt (never the first, which nothing predicts). */
export interface EncodedDemonstration {
  ids: Int32Array;
  mask: Uint8Array;
}

/** Ids of prompt and response, one after the other. */
export interface EncodedCompletion {
  ids: Int32Array;
  promptLength: number;
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

/** Prompt, completion and EOS, each tokenised by itself; no EOS after a completion that was cut off (`length`). */
export function encodeCompletion(
  tokenizer: Tokenizer,
  promptIds: ArrayLike<number>,
  completion: string,
  finishReason: FinishReason,
  policy?: LengthPolicy,
): EncodedCompletion {
  const response = refused(() => tokenizer.encode(completion));
  if (finishReason === 'stop') response.push(tokenizer.eosId);
  const promptLength = promptIds.length;
  const ids = new Int32Array(promptLength + response.length);
  ids.set(promptIds, 0);
  ids.set(response, promptLength);
  const length = fit(ids.length, promptLength, policy);
  return { ids: length === ids.length ? ids : ids.slice(0, length), promptLength };
}

/**
 * A demonstration's ids and what is to be learnt: the completion with its EOS; in a conversation each assistant turn
 * with its end-of-turn token (those of the prompt left out); in a plain text everything.
 */
export function encodeDemonstration(
  tokenizer: Tokenizer,
  row: Demonstration,
  policy?: LengthPolicy,
): EncodedDemonstration {
  if (row.kind === 'text') {
    const ids = encodeDocument(tokenizer, row.text);
    const length = fit(ids.length, 1, policy);
    return { ids: ids.slice(0, length), mask: new Uint8Array(length).fill(1, 1) };
  }
  if (row.kind === 'pair') {
    const prompt = encodePrompt(tokenizer, row.prompt);
    const { ids, promptLength } = encodeCompletion(tokenizer, prompt, row.completion, 'stop', policy);
    return { ids, mask: new Uint8Array(ids.length).fill(1, promptLength) };
  }
  const { ids, turns } = refused(() => tokenizer.chatTurns(row.messages));
  const learnt = turns.filter(({ index, begin, end }) => index >= row.given && end > begin);
  if (learnt.length === 0) throw new RowError('the chat template leaves nothing of the assistant\'s turns');
  const length = fit(ids.length, learnt[0].begin, policy);
  const mask = new Uint8Array(length);
  for (const { begin, end } of learnt) mask.fill(1, Math.max(begin, 1), end);
  return { ids: Int32Array.from(ids).slice(0, length), mask };
}

/** A document for pretraining: BOS where the tokenizer has one, the text, EOS. */
export function encodeDocument(tokenizer: Tokenizer, text: string): Int32Array {
  const bos = tokenizer.bosId === undefined ? [] : [tokenizer.bosId];
  return Int32Array.from([...bos, ...refused(() => tokenizer.encode(text)), tokenizer.eosId]);
}

/** The length to keep of a row; one token of the response at least must be left. */
function fit(length: number, promptLength: number, policy: LengthPolicy | undefined): number {
  if (!policy || length <= policy.context) return length;
  if (!policy.truncate) throw new RowTooLong(`${length} tokens, the context has ${policy.context}`);
  if (promptLength >= policy.context) {
    throw new RowTooLong(`the prompt alone has ${promptLength} tokens, the context has ${policy.context}`);
  }
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
