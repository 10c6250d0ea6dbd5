import { UsageError } from './errors.ts';
import type { Option, Shard } from './option_types.ts';
import { nearest } from './suggestion.ts';

/** Values from the command line; a single-valued option that is repeated with another value is refused. */
export function fromTexts(option: Option, texts: string[], where: string): unknown {
  switch (option.type) {
    case 'files':
    case 'strings':
      for (const text of texts) checkGiven(text, where);
      return texts;
    case 'list':
      return texts.flatMap((text) => splitList(text, where));
    default:
  }
  const different = texts.find((text) => text !== texts[0]);
  if (different !== undefined && option.type !== 'flag') {
    throw new UsageError(`${where} is given twice: ${show(texts[0])} and ${show(different)}`);
  }
  return fromText(option, texts.at(-1)!, where);
}

function checkGiven(text: string, where: string): void {
  if (text === '') throw new UsageError(`${where}: the value is empty`);
}

function fromText(option: Option, text: string, where: string): unknown {
  if (option.type !== 'string') checkGiven(text, where);
  switch (option.type) {
    case 'number':
    case 'integer': {
      if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text)) throw notA(option, text, where);
      return checkRange(option, Number(text), text, where);
    }
    case 'size':
      return checkRange(option, parseSize(text, where), text, where);
    case 'shard':
      return parseShard(text, where);
    case 'flag':
      return text === 'true';
    case 'choice':
      return checkChoice(option, text, where);
    default:
      return checkText(text, where);
  }
}

/** A value from `--config`, whose JSON type must be the option's. */
export function fromJson(option: Option, value: unknown, where: string): unknown {
  switch (option.type) {
    case 'number':
    case 'integer':
      if (typeof value !== 'number') throw notA(option, value, where);
      return checkRange(option, value, value, where);
    case 'size':
      if (typeof value === 'number') return checkRange({ ...option, type: 'integer' }, value, value, where);
      break;
    case 'flag':
      if (typeof value !== 'boolean') throw new UsageError(`${where}: ${show(value)} is not true or false`);
      return value;
    case 'files':
    case 'strings':
    case 'list': {
      const items = Array.isArray(value) ? value : [value];
      const wrong = items.find((item) => typeof item !== 'string');
      if (wrong !== undefined || (items.length === 0 && option.type === 'files')) {
        throw new UsageError(`${where}: ${show(items.length ? wrong : value)} is not a text or a list of texts`);
      }
      return fromTexts(option, items as string[], where);
    }
    default:
  }
  if (typeof value !== 'string') throw new UsageError(`${where}: ${show(value)} is not a text`);
  return fromText(option, value, where);
}

/** `given` is the value as it was written, for the message. */
function checkRange(option: Option, value: number, given: unknown, where: string): number {
  const { min, max, above, below } = option;
  if (!Number.isFinite(value)) throw notA(option, given, where);
  if (option.type === 'integer' && !Number.isSafeInteger(value)) throw notA(option, given, where);
  const bound =
    min !== undefined && value < min
      ? `at least ${min}`
      : max !== undefined && value > max
        ? `at most ${max}`
        : above !== undefined && value <= above
          ? `above ${above}`
          : below !== undefined && value >= below
            ? `below ${below}`
            : undefined;
  if (bound) throw new UsageError(`${where}: ${show(given, false)} is out of range, it must be ${bound}`);
  return value;
}

function checkChoice(option: Option, text: string, where: string): string {
  if (option.choices!.includes(text)) return text;
  throw new UsageError(
    `${where}: ${show(text)} is not one of ${option.choices!.join(', ')}`,
    didYouMean(text, option.choices!),
  );
}

export function checkText(text: string, where: string): string {
  if (text.includes('\0')) throw new UsageError(`${where}: the value has a NUL byte`);
  return text;
}

function parseSize(text: string, where: string): number {
  const match = /^(\d+\.?\d*|\.\d+)\s*([KMGT]?)(i?B)?$/i.exec(text);
  if (!match) throw new UsageError(`${where}: ${show(text)} is not a size such as 8G or 512M`);
  return Math.floor(Number(match[1]) * 1024 ** ' KMGT'.indexOf((match[2] || ' ').toUpperCase()));
}

function parseShard(text: string, where: string): Shard {
  const match = /^(\d+)\/(\d+)$/.exec(text);
  const [index, count] = [Number(match?.[1]), Number(match?.[2])];
  if (!match || !Number.isSafeInteger(count) || index >= count) {
    throw new UsageError(`${where}: ${show(text)} is not I/N with I from 0 to N - 1`);
  }
  return { index, count };
}

function splitList(text: string, where: string): string[] {
  const items = text.split(',').map((item) => item.trim());
  if (items.includes('')) throw new UsageError(`${where}: ${show(text)} has an empty entry`);
  return items;
}

const notA = (option: Option, value: unknown, where: string): UsageError =>
  new UsageError(`${where}: ${show(value)} is not ${option.type === 'integer' ? 'a whole number' : 'a number'}`);

export const didYouMean = (word: string, candidates: Iterable<string>): string | undefined => {
  const near = nearest(word, candidates);
  return near === undefined ? undefined : `did you mean ${near}?`;
};

/** A value as an error shows it: quoted, and short. */
export function show(value: unknown, quoted = true): string {
  const text = quoted && typeof value !== 'number' ? (JSON.stringify(value) ?? String(value)) : String(value); // JSON has no infinity
  return text.length <= 80 ? text : `${text.slice(0, 77)}…`;
}
