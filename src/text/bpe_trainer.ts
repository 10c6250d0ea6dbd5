import { BYTE_TO_CHAR, GPT2_PATTERN, toByteChars } from './byte_level.ts';

export interface BpeOptions {
  /** Entries of the finished vocabulary, special tokens and the 256 bytes included. */
  vocabSize: number;
  /** They get the first ids, in this order. */
  specialTokens: string[];
  /** A pair seen less often is not merged. */
  minFrequency?: number;
}

/** The special tokens of a vocabulary that `pretrain` makes; padding has a token of its own. */
export const SPECIAL_TOKENS = { pad_token: '<|pad|>', bos_token: '<|bos|>', eos_token: '<|eos|>' };

/** tokenizer_config.json for a vocabulary with SPECIAL_TOKENS: a prompt gets no BOS. */
export function byteLevelTokenizerConfig(context: number): Record<string, unknown> {
  return {
    tokenizer_class: 'PreTrainedTokenizerFast',
    ...SPECIAL_TOKENS,
    add_bos_token: false,
    clean_up_tokenization_spaces: false,
    model_max_length: context,
  };
}

/** A distinct pre-token: symbol ids and how often the texts have it. */
interface Word {
  symbols: number[];
  count: number;
}

/** A pair waiting to be merged, with the words it was seen in when it was put here. */
interface Candidate {
  left: number;
  right: number;
  count: number;
  words: Set<number>;
}

/**
 * Byte-level BPE (Sennrich et al. 2016; GPT-2's bytes and split pattern) trained as Hugging Face's BpeTrainer does it:
 * the most frequent pair first, ties to the smaller (left id, right id), pair counts with overlaps ("aaa" has two
 * "aa") kept up to date merge by merge. Returns the tokenizer.json object. A `vocabSize` below 256 + special tokens
 * gives the bytes alone.
 */
export function trainByteLevelBpe(texts: Iterable<string>, options: BpeOptions): Record<string, unknown> {
  const minFrequency = Math.max(1, options.minFrequency ?? 0);
  const tokens = [...new Set(options.specialTokens), ...[...BYTE_TO_CHAR].sort(byCodePoint)];
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const words = countWords(texts, ids);
  const merges: [string, string][] = [];
  // Pairs are keyed by one number; ids stay far below 2^26.
  const key = (left: number, right: number) => left * 2 ** 26 + right;
  const counts = new Map<number, number>();
  const queue = new CandidateQueue();

  const firstSeen = new Map<number, Candidate>();
  words.forEach(({ symbols, count }, w) => {
    for (let i = 0; i + 1 < symbols.length; i++) {
      const k = key(symbols[i], symbols[i + 1]);
      counts.set(k, (counts.get(k) ?? 0) + count);
      let candidate = firstSeen.get(k);
      if (!candidate) {
        candidate = { left: symbols[i], right: symbols[i + 1], count: 0, words: new Set() };
        firstSeen.set(k, candidate);
      }
      candidate.words.add(w);
    }
  });
  for (const [k, candidate] of firstSeen) {
    candidate.count = counts.get(k)!;
    queue.push(candidate);
  }

  while (ids.size < options.vocabSize) {
    const top = queue.pop();
    if (!top) break;
    const current = counts.get(key(top.left, top.right))!;
    if (top.count !== current) {
      top.count = current;
      if (current > 0) queue.push(top);
      continue;
    }
    if (top.count < minFrequency) break;
    const text = tokens[top.left] + tokens[top.right];
    let merged = ids.get(text);
    if (merged === undefined) {
      merged = tokens.length;
      tokens.push(text);
      ids.set(text, merged);
    }
    merges.push([tokens[top.left], tokens[top.right]]);
    // Pairs that this merge makes, with the words that have them.
    const made = new Map<number, Candidate>();
    for (const w of top.words) {
      const { symbols, count } = words[w];
      mergeWord(symbols, top.left, top.right, merged, (left, right, sign) => {
        const k = key(left, right);
        counts.set(k, (counts.get(k) ?? 0) + sign * count);
        if (sign < 0) return;
        const candidate = made.get(k) ?? { left, right, count: 0, words: new Set<number>() };
        candidate.words.add(w);
        made.set(k, candidate);
      });
    }
    for (const [k, candidate] of made) {
      candidate.count = counts.get(k)!;
      if (candidate.count > 0) queue.push(candidate);
    }
  }
  return tokenizerJson(options.specialTokens, ids, merges);
}

function byCodePoint(a: string, b: string): number {
  return a.codePointAt(0)! - b.codePointAt(0)!;
}

function countWords(texts: Iterable<string>, ids: Map<string, number>): Word[] {
  const pattern = new RegExp(GPT2_PATTERN, 'gu');
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const word of text.match(pattern) ?? []) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  return [...counts].map(([word, count]) => ({ symbols: [...toByteChars(word)].map((c) => ids.get(c)!), count }));
}

/** Replaces each (left, right) in the word, from its start, and reports the pairs that this takes away and makes. */
function mergeWord(
  symbols: number[],
  left: number,
  right: number,
  merged: number,
  change: (left: number, right: number, sign: 1 | -1) => void,
): void {
  for (let i = 0; i + 1 < symbols.length; i++) {
    if (symbols[i] !== left || symbols[i + 1] !== right) continue;
    if (i > 0) {
      change(symbols[i - 1], left, -1);
      change(symbols[i - 1], merged, 1);
    }
    symbols.splice(i, 2, merged);
    if (i + 1 < symbols.length) {
      change(right, symbols[i + 1], -1);
      change(merged, symbols[i + 1], 1);
    }
  }
}

/** Binary heap: highest count first, then the smaller pair. */
class CandidateQueue {
  readonly #heap: Candidate[] = [];

  push(candidate: Candidate): void {
    const heap = this.#heap;
    let i = heap.push(candidate) - 1;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!before(heap[i], heap[parent])) break;
      [heap[i], heap[parent]] = [heap[parent], heap[i]];
      i = parent;
    }
  }

  pop(): Candidate | undefined {
    const heap = this.#heap;
    const top = heap[0];
    const last = heap.pop();
    if (heap.length === 0 || last === undefined) return top;
    heap[0] = last;
    for (let i = 0; ; ) {
      let first = i;
      for (const child of [2 * i + 1, 2 * i + 2]) {
        if (child < heap.length && before(heap[child], heap[first])) first = child;
      }
      if (first === i) return top;
      [heap[i], heap[first]] = [heap[first], heap[i]];
      i = first;
    }
  }
}

function before(a: Candidate, b: Candidate): boolean {
  if (a.count !== b.count) return a.count > b.count;
  return a.left !== b.left ? a.left < b.left : a.right < b.right;
}

function tokenizerJson(
  specialTokens: string[],
  ids: Map<string, number>,
  merges: [string, string][],
): Record<string, unknown> {
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [...new Set(specialTokens)].map((content, id) => ({ id, content, ...flags })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: { ...byteLevel, add_prefix_space: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(ids),
      merges,
    },
  };
}
