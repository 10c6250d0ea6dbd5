import type { GgufFile } from './gguf.ts';
import { GgufMetadata } from './gguf_metadata.ts';
import { sentencePieceParts } from './gguf_sentencepiece.ts';
import { show } from './json.ts';

type Json = Record<string, unknown>;

const BYTE_LEVEL = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };

/** The pattern that Llama 3 and Qwen2 split texts with; they differ in how many digits stay together. */
const splitPattern = (digits: string) =>
  [
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    '[^\\r\\n\\p{L}\\p{N}]?\\p{L}+',
    digits,
    ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*',
    '\\s*[\\r\\n]+',
    '\\s+(?!\\S)',
    '\\s+',
  ].join('|');

const split = (digits: string) => ({
  type: 'Sequence',
  pretokenizers: [
    { type: 'Split', pattern: { Regex: splitPattern(digits) }, behavior: 'Isolated', invert: false },
    { ...BYTE_LEVEL, use_regex: false },
  ],
});

/** How a text is cut before merging, by the name that llama.cpp gives it (`tokenizer.ggml.pre`). */
export const PRE_TOKENIZERS: Readonly<Record<string, { normalizer?: Json; preTokenizer: Json }>> = {
  'gpt-2': { preTokenizer: BYTE_LEVEL },
  smollm: {
    preTokenizer: { type: 'Sequence', pretokenizers: [{ type: 'Digits', individual_digits: true }, BYTE_LEVEL] },
  },
  qwen2: { normalizer: { type: 'NFC' }, preTokenizer: split('\\p{N}') },
  'llama-bpe': { preTokenizer: split('\\p{N}{1,3}') },
};

/** Token types as llama.cpp numbers them. */
export const TOKEN_TYPES = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;
const { unknown: UNKNOWN, control: CONTROL, userDefined: USER_DEFINED } = TOKEN_TYPES;

/** What the two kinds of tokenizer have of their own in tokenizer.json. */
export interface TokenizerParts {
  normalizer: Json | null;
  preTokenizer: Json | null;
  decoder: Json;
  /** "left right", the first to be joined first. */
  merges: string[];
  byteFallback: boolean;
  ignoreMerges: boolean;
  unknown: string | null;
}

/** The roles of tokens as llama.cpp names them, and what it takes in SentencePiece files that do not name them. */
const ROLES = ['bos', 'eos', 'unknown', 'padding'] as const;
const SENTENCE_PIECE_ROLES: Partial<Record<Role, number>> = { bos: 1, eos: 2, unknown: 0 };
type Role = (typeof ROLES)[number];

/** The ids of the tokens that have a role. */
export function specialTokenIds(metadata: GgufMetadata): Partial<Record<Role, number>> {
  const defaults = metadata.text('tokenizer.ggml.model', undefined) === 'llama' ? SENTENCE_PIECE_ROLES : {};
  return Object.fromEntries(
    ROLES.flatMap((role) => {
      const id = metadata.number(`tokenizer.ggml.${role}_token_id`, undefined) ?? defaults[role];
      return id === undefined ? [] : [[role, id]];
    }),
  );
}

/** Tokens besides EOS that end a generation: of a turn, and of a message that calls a tool. */
export const MORE_ENDS = ['eot', 'eom'] as const;

/** The ids of all tokens that end a generation, EOS first. Throws UsageError where one is not in the vocabulary. */
export function endIds(metadata: GgufMetadata): number[] {
  const { length } = metadata.texts('tokenizer.ggml.tokens');
  const more = MORE_ENDS.map((role) => {
    const id = metadata.number(`tokenizer.ggml.${role}_token_id`, undefined);
    if (id !== undefined && id >= length) throw metadata.fail(`tokenizer.ggml.${role}_token_id ${id} is not in the vocabulary`);
    return id;
  });
  return [...new Set([specialTokenIds(metadata).eos, ...more])].filter((id) => id !== undefined);
}

/**
 * Rebuilds `tokenizer.json` and `tokenizer_config.json` (with the chat template) from a GGUF file's metadata.
 * @throws UsageError naming the file, and the tokenizer or the key that is not supported
 */
export function tokenizerFromGguf(file: GgufFile): Record<string, string> {
  const metadata = new GgufMetadata(file);
  const kind = metadata.text('tokenizer.ggml.model');
  if (kind !== 'gpt2' && kind !== 'llama') {
    throw metadata.fail(
      `tokenizer.ggml.model ${show(kind)} is not supported (supported: gpt2, which is byte-level BPE, and llama, SentencePiece)`,
    );
  }
  const tokens = metadata.texts('tokenizer.ggml.tokens');
  const vocabulary = new Map(tokens.map((token, id) => [token, id]));
  if (vocabulary.size !== tokens.length) throw metadata.fail('tokenizer.ggml.tokens: some token is there twice');
  const types = metadata.has('tokenizer.ggml.token_type') ? metadata.numbers('tokenizer.ggml.token_type') : [];
  const parts = kind === 'llama' ? sentencePieceParts(metadata, vocabulary) : byteLevelParts(metadata, vocabulary);

  const ids = specialTokenIds(metadata);
  const token = (role: Role) => {
    const id = ids[role];
    if (id === undefined) return undefined;
    if (tokens[id] === undefined) throw metadata.fail(`tokenizer.ggml.${role}_token_id ${id} is not in the vocabulary`);
    return tokens[id];
  };
  const [bos, eos, unk, pad] = [token('bos'), token('eos'), token('unknown'), token('padding')];
  const addBos = metadata.flag('tokenizer.ggml.add_bos_token', kind === 'llama');
  const added = tokens.flatMap((content, id) => {
    const type = types[id];
    if (type !== CONTROL && type !== USER_DEFINED && type !== UNKNOWN && content !== eos) return [];
    const special = type !== USER_DEFINED;
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }];
  });
  const tokenizer = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: parts.normalizer,
    pre_tokenizer: parts.preTokenizer,
    post_processor: addBos && bos !== undefined ? bosTemplate(bos, vocabulary.get(bos)!) : null,
    decoder: parts.decoder,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: parts.unknown,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: parts.byteFallback,
      byte_fallback: parts.byteFallback,
      ignore_merges: parts.ignoreMerges,
      vocab: Object.fromEntries(vocabulary),
      merges: parts.merges,
    },
  };
  const architecture = metadata.text('general.architecture');
  const settings = {
    tokenizer_class: 'PreTrainedTokenizerFast',
    add_prefix_space: false,
    clean_up_tokenization_spaces: false,
    model_max_length: metadata.number(`${architecture}.context_length`),
    ...(addBos ? { add_bos_token: true } : {}),
    ...Object.fromEntries(
      Object.entries({ bos_token: bos, eos_token: eos, unk_token: unk, pad_token: pad }).filter(
        ([, content]) => content !== undefined,
      ),
    ),
    ...(metadata.has('tokenizer.chat_template') ? { chat_template: metadata.text('tokenizer.chat_template') } : {}),
  };
  return {
    'tokenizer.json': `${JSON.stringify(tokenizer)}\n`,
    'tokenizer_config.json': `${JSON.stringify(settings, null, 2)}\n`,
  };
}

function byteLevelParts(metadata: GgufMetadata, vocabulary: ReadonlyMap<string, number>): TokenizerParts {
  const pre = metadata.text('tokenizer.ggml.pre', undefined) ?? 'gpt-2';
  if (!Object.hasOwn(PRE_TOKENIZERS, pre)) {
    throw metadata.fail(
      `tokenizer.ggml.pre ${show(pre)} is not supported (supported: ${Object.keys(PRE_TOKENIZERS).join(', ')})`,
    );
  }
  const merges = metadata.texts('tokenizer.ggml.merges');
  const unmerged = merges.find((merge) => !isMerge(merge, vocabulary));
  if (unmerged !== undefined) throw metadata.fail(`tokenizer.ggml.merges: ${show(unmerged)} does not join two tokens to one`);
  const { normalizer = null, preTokenizer } = PRE_TOKENIZERS[pre]!;
  return {
    normalizer,
    preTokenizer,
    decoder: { ...BYTE_LEVEL, add_prefix_space: true },
    merges,
    byteFallback: false,
    ignoreMerges: pre === 'llama-bpe',
    unknown: null,
  };
}

/** "Ġt he": both parts and what they join to are tokens. */
function isMerge(merge: string, vocabulary: ReadonlyMap<string, number>): boolean {
  const [left, right, rest] = merge.split(' ');
  if (!left || !right || rest !== undefined) return false;
  return vocabulary.has(left) && vocabulary.has(right) && vocabulary.has(left + right);
}

/** BOS before every text, as a post-processor. */
function bosTemplate(bos: string, id: number): Json {
  const special = { SpecialToken: { id: bos, type_id: 0 } };
  const sequence = (name: string) => ({ Sequence: { id: name, type_id: 0 } });
  return {
    type: 'TemplateProcessing',
    single: [special, sequence('A')],
    pair: [special, sequence('A'), special, sequence('B')],
    special_tokens: { [bos]: { id: bos, ids: [id], tokens: [bos] } },
  };
}
