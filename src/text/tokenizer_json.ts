import { BYTE_TO_CHAR, GPT2_PATTERN } from './byte_level.ts';

/** A parsed JSON object whose fields are still to be checked. */
export type Json = Record<string, unknown>;

/** What tokenizer.json says, checked; `forLibrary` is the description that the tokenizers library is given. */
export interface TokenizerDescription {
  forLibrary: Json;
  /** id → vocabulary entry, added tokens included. */
  tokens: Map<number, string>;
  ids: Map<string, number>;
  specialIds: Set<number>;
  decoder: unknown;
  postProcessor: unknown;
}

interface AddedToken {
  id: number;
  content: string;
  special: boolean;
}

/** No published tokenizer comes near: Gemma's has 2^18 entries. */
const MAX_ID = 2 ** 22;
const MAX_NESTING = 16;
/** Stands for characters that have no entry: a noncharacter, which none has. */
const NO_ENTRY = '\u{10ffff}';
/** \w of Rust's regular expressions, within a class. */
const WORD = '\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\u200c\\u200d';

/**
 * Checks a parsed tokenizer.json and rewrites what the JavaScript library does otherwise than the Rust one.
 * `extraTokens` are tokenizer_config.json's `added_tokens_decoder` entries. Throws an Error that names the field.
 */
export function describeTokenizer(json: unknown, extraTokens: Json = {}): TokenizerDescription {
  if (!isObject(json)) throw new Error('not a JSON object');
  const model = json.model;
  if (!isObject(model)) throw new Error('"model" is missing or not an object');
  const kind = model.type ?? ('merges' in model ? 'BPE' : undefined);
  if (kind !== 'BPE') throw new Error(`model type ${show(kind)} is not supported (supported: "BPE")`);
  for (const name of ['continuing_subword_prefix', 'end_of_word_suffix']) {
    if (model[name]) throw new Error(`model.${name} ${show(model[name])} is not supported`);
  }
  if (model.unk_token != null && typeof model.unk_token !== 'string') throw new Error('model.unk_token is not a text');
  const ids = readVocabulary(model.vocab);
  const tokens = new Map<number, string>();
  for (const [token, id] of ids) {
    const other = tokens.get(id);
    if (other !== undefined) throw new Error(`model.vocab: ${show(other)} and ${show(token)} have the same id ${id}`);
    tokens.set(id, token);
  }
  if (model.unk_token != null && !ids.has(model.unk_token)) {
    throw new Error(`model.unk_token ${show(model.unk_token)} is not in model.vocab`);
  }
  const merges = readMerges(model.merges, ids);
  const unknown = replaceUnknown(json.pre_tokenizer, model, ids);
  const added = readAddedTokens(json.added_tokens, extraTokens, ids, tokens);
  for (const { id, content } of added) {
    ids.set(content, id);
    tokens.set(id, content);
  }
  const preTokenizer = json.pre_tokenizer == null
    ? splitAtSpaces(model, ids, merges)
    : rewritePreTokenizer(json.pre_tokenizer, 0);
  return {
    forLibrary: {
      ...json,
      model: { ...model, type: 'BPE', merges, ...(unknown ? { fuse_unk: false } : {}) },
      added_tokens: added,
      normalizer: json.normalizer == null ? null : rewriteNormalizer(json.normalizer, 0),
      pre_tokenizer: unknown ? { type: 'Sequence', pretokenizers: [...(preTokenizer ? [preTokenizer] : []), unknown] } : preTokenizer,
      post_processor: null,
      decoder: null,
    },
    tokens,
    ids,
    specialIds: new Set(added.filter((token) => token.special).map((token) => token.id)),
    decoder: json.decoder,
    postProcessor: json.post_processor,
  };
}

/** True for a JSON object: no list, no null. */
export function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A value as it appears in a message: JSON, cut short. */
export function show(value: unknown): string {
  const text = typeof value === 'string' ? JSON.stringify(value.slice(0, 60)) : JSON.stringify(value) ?? 'undefined';
  return text.length > 60 ? `${text.slice(0, 59)}…` : text;
}

function readVocabulary(vocab: unknown): Map<string, number> {
  if (!isObject(vocab)) throw new Error('model.vocab is missing or not an object of token: id');
  const entries = Object.entries(vocab);
  if (entries.length === 0) throw new Error('model.vocab is empty');
  for (const [token, id] of entries) checkId(id, `model.vocab[${show(token)}]`);
  return new Map(entries as [string, number][]);
}

function checkId(id: unknown, where: string): asserts id is number {
  if (!Number.isInteger(id)) throw new Error(`${where}: id ${show(id)} is not a whole number`);
  if ((id as number) < 0 || (id as number) >= MAX_ID) throw new Error(`${where}: id ${show(id)} is out of range`);
}

function readMerges(merges: unknown, ids: Map<string, number>): [string, string][] {
  if (!Array.isArray(merges)) throw new Error('model.merges is missing or not a list');
  return merges.map((merge, i) => {
    const pair: unknown[] = typeof merge === 'string' ? merge.split(' ') : Array.isArray(merge) ? merge : [];
    const [left, right] = pair;
    if (pair.length !== 2 || typeof left !== 'string' || typeof right !== 'string') {
      throw new Error(`model.merges[${i}]: ${show(merge)} is not a pair of tokens`);
    }
    for (const token of [left, right, left + right]) {
      if (!ids.has(token)) throw new Error(`model.merges[${i}]: ${show(token)} is not in model.vocab`);
    }
    return [left, right];
  });
}

function readAddedTokens(
  list: unknown,
  extraTokens: Json,
  ids: Map<string, number>,
  tokens: Map<number, string>,
): AddedToken[] {
  if (list != null && !Array.isArray(list)) throw new Error('added_tokens is not a list');
  const known = new Set<unknown>((list ?? []).map((token: unknown) => (isObject(token) ? token.content : token)));
  const extra = Object.entries(extraTokens)
    .filter(([, token]) => isObject(token) && typeof token.content === 'string' && !known.has(token.content))
    .map(([id, token]) => ({ ...(token as Json), id: Number(id) }));
  const seen = new Map<number, string>();
  const contents = new Set<string>();
  return [...(list ?? []), ...extra].map((token: unknown, i) => {
    const where = `added_tokens[${i}]`;
    if (!isObject(token)) throw new Error(`${where} is not an object`);
    const { id, content } = token;
    if (typeof content !== 'string' || content === '') throw new Error(`${where}.content is missing or no text`);
    checkId(id, `${where} ${show(content)}`);
    for (const name of ['special', 'normalized', 'lstrip', 'rstrip', 'single_word']) {
      const flag = token[name];
      if (flag !== undefined && typeof flag !== 'boolean') throw new Error(`${where}.${name} is no boolean`);
    }
    if (token.single_word) throw new Error(`${where} ${show(content)}: "single_word" is not supported`);
    const other = seen.get(id) ?? tokens.get(id);
    if (other !== undefined && other !== content) {
      throw new Error(`${where}: ${show(other)} and ${show(content)} have the same id ${id}`);
    }
    const vocabularyId = ids.get(content);
    if (contents.has(content) || (vocabularyId !== undefined && vocabularyId !== id)) {
      throw new Error(`${where}: ${show(content)} has two ids`);
    }
    seen.set(id, content);
    contents.add(content);
    return { ...token, id, content, special: token.special === true };
  });
}

/**
 * Without a pre-tokenizer a whole document is one word for BPE. Where no merge joins another character with a
 * following ▁, cutting before ▁ changes no id and makes words that can be cached.
 */
function splitAtSpaces(model: Json, ids: Map<string, number>, merges: [string, string][]): Json | null {
  const exact = ids.has('▁') && !model.ignore_merges && merges.every(([a, b]) => !/[^▁]▁/u.test(a + b));
  return exact ? split('▁*[^▁]+|▁+') : null;
}

/**
 * A character without an entry is left out where there is no unknown token, and its neighbours may then be merged: it must
 * go before BPE sees it, which the library does not do. With fuse_unk a run of them is one unknown token; the library joins
 * the runs of neighbouring words, too. Undefined where there is nothing to do: every byte has an entry, as a rule.
 */
function replaceUnknown(preTokenizer: unknown, model: Json, ids: Map<string, number>): Json | undefined {
  const fused = model.unk_token != null;
  if (model.byte_fallback === true || (fused && (model.fuse_unk !== true || preTokenizer == null || ids.has(NO_ENTRY)))) return undefined;
  const bytes = JSON.stringify(preTokenizer ?? null).includes('"ByteLevel"');
  if (bytes && BYTE_TO_CHAR.every((char) => ids.has(char))) return undefined;
  const known = [...ids.keys()].filter((token) => [...token].length === 1).map((char) => `\\u{${char.codePointAt(0)!.toString(16)}}`);
  return { type: 'Replace', pattern: { Regex: known.length ? `[^${known.join('')}]+` : '[\\s\\S]+' }, content: fused ? NO_ENTRY : '' };
}

function split(regex: string, behavior = 'Isolated', invert = false): Json {
  return { type: 'Split', pattern: { Regex: regex }, behavior, invert };
}

function rewritePreTokenizer(config: unknown, depth: number): Json {
  if (depth > MAX_NESTING) throw new Error('pre_tokenizer: nested too deeply');
  if (!isObject(config)) throw new Error('pre_tokenizer is not an object');
  switch (config.type) {
    case 'Sequence':
      return { ...config, pretokenizers: list(config, 'pretokenizers').map((c) => rewritePreTokenizer(c, depth + 1)) };
    case 'ByteLevel': {
      const bytes = { ...config, use_regex: false, add_prefix_space: false };
      const prefix = { type: 'Replace', pattern: { Regex: '\\A([^ ])' }, content: ' $1' };
      const steps = [
        ...(config.add_prefix_space === true ? [prefix] : []),
        ...(config.use_regex === false ? [] : [split(GPT2_PATTERN)]),
        bytes,
      ];
      return { type: 'Sequence', pretokenizers: steps };
    }
    case 'Digits':
      return split(config.individual_digits === true ? '\\p{N}' : '\\p{N}+');
    case 'Whitespace':
      return split(`[${WORD}]+|[^${WORD}\\p{White_Space}]+`, 'Removed', true);
    case 'Punctuation':
      return splitAs('[!-\\/:-@\\[-`{-~\\p{P}]', config.behavior ?? 'Isolated', false);
    case 'WhitespaceSplit':
      return split('\\S+', 'Removed', true);
    case 'Split':
      return rewriteSplit(config);
    case 'Metaspace': {
      const spaces = { ...config, prepend_scheme: config.prepend_scheme ?? (config.add_prefix_space === false ? 'never' : 'always') };
      if (config.split === false) return spaces;
      const sign = typeof config.replacement === 'string' ? config.replacement : '\u2581';
      return { type: 'Sequence', pretokenizers: [spaces, splitAs(escapeRegex(sign), 'MergedWithNext', false)] };
    }
    default:
      throw new Error(`pre_tokenizer type ${show(config.type)} is not supported`);
  }
}

function rewriteSplit(config: Json): Json {
  const pattern = isObject(config.pattern) ? config.pattern : {};
  const regex = typeof pattern.String === 'string' ? escapeRegex(pattern.String) : pattern.Regex;
  if (typeof regex !== 'string' || regex === '') throw new Error('pre_tokenizer: Split without a pattern');
  return splitAs(regex, config.behavior, config.invert === true);
}

/** A split with any of the Rust library's behaviours, as one whose matches are the pieces: the JavaScript one has only two. */
function splitAs(regex: string, behavior: unknown, invert: boolean): Json {
  const match = `(?:${regex})`;
  const between = `(?:(?!${regex})[\\s\\S])`;
  switch (behavior) {
    case 'Isolated':
      return split(regex);
    case 'Removed':
      return split(regex, 'Removed', invert);
    case 'Contiguous':
      return split(`${match}+|${between}+`);
    case 'MergedWithPrevious': case 'MergedWithNext':
      // Inverted, the texts between are what is merged: with the match on their other side.
      return split((behavior === 'MergedWithNext') === invert ? `${between}*${match}|${between}+` : `${match}${between}*|${between}+`);
    default:
      throw new Error(`pre_tokenizer: split behavior ${show(behavior)} is not supported`);
  }
}

function rewriteNormalizer(config: unknown, depth: number): Json {
  if (depth > MAX_NESTING) throw new Error('normalizer: nested too deeply');
  if (!isObject(config)) throw new Error('normalizer is not an object');
  switch (config.type) {
    case 'Sequence':
      return { ...config, normalizers: list(config, 'normalizers').map((c) => rewriteNormalizer(c, depth + 1)) };
    case 'Replace': {
      const pattern = isObject(config.pattern) ? config.pattern : {};
      const regex = typeof pattern.String === 'string' ? escapeRegex(pattern.String) : pattern.Regex;
      if (typeof regex !== 'string' || regex === '' || typeof config.content !== 'string') {
        throw new Error('normalizer: Replace needs a pattern and a content');
      }
      // The library hands the content to String.replaceAll, where a dollar sign has a meaning of its own.
      return replacement(regex, config.content.replaceAll('$', '$$$$'));
    }
    case 'Prepend':
      if (typeof config.prepend !== 'string') throw new Error('normalizer: Prepend without a text');
      return config;
    case 'Strip': {
      const sides = [config.strip_left === false ? '' : '\\A\\s+', config.strip_right === false ? '' : '\\s+\\z'];
      return { type: 'Sequence', normalizers: sides.filter((regex) => regex !== '').map((regex) => replacement(regex, '')) };
    }
    case 'StripAccents':
      return replacement('\\p{M}', '');
    case 'NFC': case 'NFD': case 'NFKC': case 'NFKD': case 'Lowercase':
      return config;
    default:
      throw new Error(`normalizer type ${show(config.type)} is not supported`);
  }
}

function replacement(regex: string, content: string): Json {
  return { type: 'Replace', pattern: { Regex: regex }, content };
}

function list(config: Json, name: string): unknown[] {
  const value = config[name];
  if (!Array.isArray(value)) throw new Error(`${show(config.type)} without a list "${name}"`);
  return value;
}

function escapeRegex(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}
