import type { Message } from '../text/chat_template.ts';
import { RowError } from './collect.ts';
import { nameOf, type JsonObject } from './jsonl.ts';

/** A text, or a conversation that ends with a user's turn. */
export type Prompt = string | Message[];

/** `given` messages of a conversation come from the prompt: no loss on them. A text has loss everywhere. */
export type Demonstration =
  | { kind: 'pair'; prompt: string; completion: string; finishReason: FinishReason }
  | { kind: 'chat'; messages: Message[]; given: number }
  | { kind: 'text'; text: string };

export type FinishReason = 'stop' | 'length';

/** Answers to one prompt; `single` where the row has `completion` and not `completions`. */
export interface Completions {
  prompt: Prompt;
  completions: string[];
  finishReasons: FinishReason[];
  single: boolean;
}

/** Ranked answers to one prompt: lower ranks are better, equal ones are ties. */
export interface Ranking {
  prompt: Prompt;
  completions: string[];
  finishReasons: FinishReason[];
  ranks: number[];
  /** Subtracted from the difference of rewards, for `chosen` against `rejected`. */
  margin?: number;
}

/** `{"text"}`. All readers here throw a RowError that names the field. */
export function asText(value: JsonObject): string {
  return textField(value, 'text');
}

/** `{"prompt"}` or `{"messages"}`, ending with a user's turn. */
export function asPrompt(value: JsonObject): Prompt {
  if ('prompt' in value) return promptOf(value.prompt, 'prompt');
  if ('messages' in value) return conversation(value.messages, 'messages', 'user');
  throw lacks(value, '"prompt" or "messages"');
}

/** A demonstration in any of its forms: prompt and completion, messages, instruction and output, or a text. */
export function asDemonstration(value: JsonObject): Demonstration {
  if ('prompt' in value || 'completion' in value) return promptAndCompletion(value);
  if ('messages' in value) {
    return { kind: 'chat', messages: conversation(value.messages, 'messages', 'assistant'), given: 0 };
  }
  if ('instruction' in value) {
    const instruction = textField(value, 'instruction');
    const input = value.input === undefined || value.input === null ? '' : textField(value, 'input');
    const prompt = `${instruction}\n\n${input === '' ? '' : `${input}\n\n`}`;
    return { kind: 'pair', prompt, completion: textField(value, 'output'), finishReason: 'stop' };
  }
  if ('text' in value) return { kind: 'text', text: asText(value) };
  throw lacks(value, '"prompt" and "completion", "messages", or "instruction" and "output"');
}

/** A prompt with `completions` or `completion`, and `finish_reason` (missing: stop). */
export function asCompletions(value: JsonObject): Completions {
  const prompt = asPrompt(value);
  if ('completions' in value) {
    const completions = textList(value.completions, 'completions');
    if (completions.length === 0) throw new RowError('"completions" is empty');
    const reasons = finishReasons(value.finish_reason, completions.length);
    return { prompt, completions, finishReasons: reasons, single: false };
  }
  if (!('completion' in value)) throw lacks(value, '"completion" or "completions"');
  return { prompt, completions: [answerOf(value.completion, 'completion')], finishReasons: [ownFinishReason(value)], single: true };
}

/** A prompt with `completions`, `finish_reason` (missing: stop) and `ranks`, or with `chosen` and `rejected` (and a `margin`). */
export function asRanking(value: JsonObject): Ranking {
  const prompt = asPrompt(value);
  if ('completions' in value || 'ranks' in value) {
    const completions = textList(value.completions, 'completions');
    if (completions.length < 2) {
      throw new RowError(`"completions" has ${completions.length}, a ranking needs two or more`);
    }
    const ranks = value.ranks;
    if (!Array.isArray(ranks)) throw mistyped(ranks, 'ranks', 'a list of numbers');
    if (ranks.length !== completions.length) {
      throw new RowError(`"ranks" has ${ranks.length} entries, "completions" has ${completions.length}`);
    }
    const finishes = finishReasons(value.finish_reason, completions.length);
    return { prompt, completions, finishReasons: finishes, ranks: ranks.map((rank, i) => finite(rank, `ranks[${i}]`)) };
  }
  if (!('chosen' in value) && !('rejected' in value)) {
    throw lacks(value, '"completions" and "ranks", or "chosen" and "rejected"');
  }
  const completions = [answerOf(value.chosen, 'chosen'), answerOf(value.rejected, 'rejected')];
  const ranking: Ranking = { prompt, completions, finishReasons: ['stop', 'stop'], ranks: [1, 2] };
  if (value.margin !== undefined && value.margin !== null) ranking.margin = finite(value.margin, 'margin');
  return ranking;
}

function promptAndCompletion(value: JsonObject): Demonstration {
  for (const name of ['prompt', 'completion']) if (!(name in value)) throw new RowError(`"${name}" is missing`);
  if (typeof value.prompt === 'string' && Array.isArray(value.completion)) {
    throw new RowError('"prompt" is a text and "completion" a list: both must be texts or both lists of messages');
  }
  if (typeof value.prompt === 'string') {
    return { kind: 'pair', prompt: textField(value, 'prompt'), completion: textField(value, 'completion'), finishReason: ownFinishReason(value) };
  }
  const prompt = conversation(value.prompt, 'prompt', 'user');
  if (!Array.isArray(value.completion)) {
    throw mistyped(value.completion, 'completion', 'a list of messages as in "prompt"');
  }
  const messages = turns(value.completion, 'completion');
  checkOrder(messages, 'completion', 'assistant', 'assistant');
  return { kind: 'chat', messages: [...prompt, ...messages], given: prompt.length };
}

function promptOf(value: unknown, field: string): Prompt {
  if (typeof value === 'string') return wellFormed(value, field);
  if (Array.isArray(value)) return conversation(value, field, 'user');
  throw mistyped(value, field, 'a text or a list of messages');
}

/** An answer: a text, or a list with the one message of the assistant. */
function answerOf(value: unknown, field: string): string {
  if (typeof value === 'string') return wellFormed(value, field);
  if (!Array.isArray(value)) throw mistyped(value, field, 'a text or a list of messages');
  const messages = turns(value, field);
  if (messages.length !== 1 || messages[0].role !== 'assistant') {
    throw new RowError(`"${field}" must hold one message, of the assistant`);
  }
  return messages[0].content;
}

function conversation(value: unknown, field: string, last: 'user' | 'assistant'): Message[] {
  if (!Array.isArray(value)) throw mistyped(value, field, 'a list of messages');
  const messages = turns(value, field);
  checkOrder(messages, field, 'user', last);
  return messages;
}

function turns(list: unknown[], field: string): Message[] {
  return list.map((entry, i) => {
    const where = `${field}[${i}]`;
    if (typeof entry !== 'object' || entry === null || Array.isArray(entry)) {
      throw mistyped(entry, where, '{"role", "content"}');
    }
    const { role, content } = entry as JsonObject;
    if (role !== 'system' && role !== 'user' && role !== 'assistant') {
      const found = typeof role === 'string' ? JSON.stringify(role.slice(0, 40)) : nameOf(role);
      throw new RowError(`"${where}.role" is ${found}, expected "system", "user" or "assistant"`);
    }
    if (typeof content !== 'string') throw mistyped(content, `${where}.content`, 'a text');
    return { role, content: wellFormed(content, `${where}.content`) };
  });
}

/** Turns alternate, a system message may come first of all in a conversation that the user opens. */
function checkOrder(messages: Message[], field: string, first: string, last: string): void {
  if (messages.length === 0) throw new RowError(`"${field}" is empty`);
  const start = first === 'user' && messages[0].role === 'system' ? 1 : 0;
  let expected = first;
  for (let i = start; i < messages.length; i++) {
    if (messages[i].role !== expected) {
      const found = `message ${i + 1} has role ${messages[i].role}`;
      throw new RowError(`"${field}" is unbalanced: ${found}, expected ${expected}`);
    }
    expected = expected === 'user' ? 'assistant' : 'user';
  }
  const end = messages[messages.length - 1].role;
  if (end !== last) throw new RowError(`"${field}" is unbalanced: the last message has role ${end}, expected ${last}`);
}

function textField(value: JsonObject, field: string): string {
  const text = value[field];
  if (typeof text === 'string') return wellFormed(text, field);
  throw mistyped(text, field, 'a text');
}

function textList(value: unknown, field: string): string[] {
  if (!Array.isArray(value)) throw mistyped(value, field, 'a list of texts');
  return value.map((text: unknown, i) => {
    if (typeof text === 'string') return wellFormed(text, `${field}[${i}]`);
    throw mistyped(text, `${field}[${i}]`, 'a text');
  });
}

/** Half of a surrogate pair, which only a \u escape can bring in, has no UTF-8. */
function wellFormed(text: string, field: string): string {
  if (!/\p{Surrogate}/u.test(text)) return text;
  throw new RowError(`"${field}" holds half of a surrogate pair, which is no character`);
}

function finishReasons(value: unknown, count: number): FinishReason[] {
  if (value === undefined || value === null) return Array<FinishReason>(count).fill('stop');
  if (!Array.isArray(value)) throw mistyped(value, 'finish_reason', 'a list as long as "completions"');
  if (value.length !== count) {
    throw new RowError(`"finish_reason" has ${value.length} entries, "completions" has ${count}`);
  }
  return value.map((reason, i) => (reason === null ? 'stop' : finishReason(reason, `finish_reason[${i}]`)));
}

/** The finish reason of a row with one completion. */
function ownFinishReason({ finish_reason: reason }: JsonObject): FinishReason {
  return reason === undefined || reason === null ? 'stop' : finishReason(reason, 'finish_reason');
}

function finishReason(value: unknown, field: string): FinishReason {
  if (value === 'stop' || value === 'length') return value;
  const found = typeof value === 'string' ? JSON.stringify(value.slice(0, 40)) : nameOf(value);
  throw new RowError(`"${field}" is ${found}, expected "stop" or "length"`);
}

function finite(value: unknown, field: string): number {
  if (typeof value !== 'number') throw mistyped(value, field, 'a number');
  if (!Number.isFinite(value)) throw new RowError(`"${field}" is not finite`);
  return value;
}

function mistyped(value: unknown, field: string, expected: string): RowError {
  return new RowError(
    value === undefined ? `"${field}" is missing` : `"${field}" is ${nameOf(value)}, expected ${expected}`,
  );
}

function lacks(value: JsonObject, needed: string): RowError {
  const fields = Object.keys(value).slice(0, 8).map((name) => JSON.stringify(name.slice(0, 40)));
  return new RowError(`needs ${needed}; the row has ${fields.length === 0 ? 'no fields' : fields.join(', ')}`);
}
