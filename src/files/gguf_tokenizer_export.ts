import { UsageError } from '../errors.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { describeTokenizer, isObject, type Json, type TokenizerDescription } from '../text/tokenizer_json.ts';
import { MORE_ENDS, PRE_TOKENIZERS, TOKEN_TYPES } from './gguf_tokenizer.ts';
import type { GgufEntry } from './gguf_write.ts';
import { show } from './json.ts';

/** A tokenizer's parsed files with what its parts say, and the path that messages name. */
interface Source {
  file: string;
  tokenizer: Tokenizer;
  json: Json;
  model: Json;
  merges: [string, string][];
  description: TokenizerDescription;
}

/**
 * A tokenizer as llama.cpp's metadata: byte-level BPE under the name of its pre-tokenizer, or SentencePiece-like BPE
 * (▁ and byte fallback) with scores.
 * @param rows of the embedding: ids without a token get a placeholder
 * @throws UsageError naming the part of tokenizer.json that llama.cpp cannot do
 */
export function ggufTokenizer(tokenizer: Tokenizer, file: string, rows: number): GgufEntry[] {
  const json = JSON.parse(tokenizer.files.get('tokenizer.json')!) as Json;
  const settings = JSON.parse(tokenizer.files.get('tokenizer_config.json') ?? '{}') as Json;
  const extra = isObject(settings.added_tokens_decoder) ? settings.added_tokens_decoder : {};
  const description = describeTokenizer(json, extra);
  const model = description.forLibrary.model as Json;
  const source = { file, tokenizer, json, model, merges: model.merges as [string, string][], description };
  if (tokenizer.vocabSize > rows) {
    throw new UsageError(`${file}: has id ${tokenizer.vocabSize - 1}, but the model has ${rows} rows in its embedding`);
  }
  const { prefixIds, addsBos, bosId, eosId, padId } = tokenizer;
  if (prefixIds.length > (addsBos ? 1 : 0)) {
    throw new UsageError(`${file}: post_processor: ids [${prefixIds}] before a text cannot be kept in GGUF (only BOS)`);
  }
  const special = (name: string, id: number | undefined): GgufEntry[] =>
    id === undefined ? [] : [{ key: `tokenizer.ggml.${name}_token_id`, type: 'u32', value: id }];
  const unknown = typeof model.unk_token === 'string' ? description.ids.get(model.unk_token) : undefined;
  const template = tokenizer.chatTemplateSource;
  return [
    ...(isSentencePiece(source) ? sentencePieceEntries(source, rows) : byteLevelEntries(source, rows)),
    ...special('bos', bosId),
    ...special('eos', eosId),
    ...MORE_ENDS.flatMap((role, i) => special(role, [...tokenizer.eosIds].filter((id) => id !== eosId && id < rows)[i])),
    ...special('padding', padId),
    ...special('unknown', unknown),
    { key: 'tokenizer.ggml.add_bos_token', type: 'bool', value: addsBos },
    { key: 'tokenizer.ggml.add_eos_token', type: 'bool', value: false },
    ...(template === undefined ? [] : [{ key: 'tokenizer.chat_template', type: 'string', value: template } as const]),
  ];
}

/** Tokens that take white space beside them with them (lstrip, rstrip): GGUF has no place for that. */
export function strippingTokens(tokenizer: Tokenizer): string[] {
  const { added_tokens: added } = JSON.parse(tokenizer.files.get('tokenizer.json')!) as { added_tokens?: { content: string; lstrip?: boolean; rstrip?: boolean }[] };
  return (added ?? []).filter(({ lstrip, rstrip }) => lstrip || rstrip).map(({ content }) => content);
}

function vocabularyEntries({ description }: Source, rows: number): { tokens: string[]; entries: GgufEntry[] } {
  const tokens: string[] = [];
  const types: number[] = [];
  const added = new Map((description.forLibrary.added_tokens as { id: number; special: boolean }[])
    .map(({ id, special }) => [id, special]));
  for (let id = 0; id < rows; id++) {
    const token = description.tokens.get(id);
    tokens.push(token ?? `[PAD${id}]`);
    types.push(
      token === undefined ? TOKEN_TYPES.unused
        : added.has(id) ? (added.get(id) ? TOKEN_TYPES.control : TOKEN_TYPES.userDefined)
          : TOKEN_TYPES.normal,
    );
  }
  return {
    tokens,
    entries: [
      { key: 'tokenizer.ggml.tokens', type: 'string[]', value: tokens },
      { key: 'tokenizer.ggml.token_type', type: 'i32[]', value: types },
    ],
  };
}

function byteLevelEntries(source: Source, rows: number): GgufEntry[] {
  const { file, json, model, merges } = source;
  const name = Object.keys(PRE_TOKENIZERS).find((candidate) => {
    const { normalizer, preTokenizer } = PRE_TOKENIZERS[candidate]!;
    return steps(preTokenizer).join() === steps(json.pre_tokenizer).join()
      && (json.normalizer == null || steps(json.normalizer).join() === steps(normalizer).join());
  });
  if (name === undefined) {
    const what = json.normalizer == null ? '' : ` with normalizer ${steps(json.normalizer).join(' + ')}`;
    throw new UsageError(
      `${file}: pre_tokenizer ${steps(json.pre_tokenizer).join(' + ') || 'null'}${what} has no name in llama.cpp ` +
        `(supported: those of ${Object.keys(PRE_TOKENIZERS).join(', ')}, and SentencePiece's)`,
    );
  }
  // llama.cpp knows only by the name whether a word that is a token is left whole.
  const ignores = model.ignore_merges === true;
  if (ignores !== (name === 'llama-bpe')) {
    throw new UsageError(`${file}: model.ignore_merges ${ignores} is not what llama.cpp does for ${name}`);
  }
  return [
    { key: 'tokenizer.ggml.model', type: 'string', value: 'gpt2' },
    { key: 'tokenizer.ggml.pre', type: 'string', value: name },
    ...vocabularyEntries(source, rows).entries,
    { key: 'tokenizer.ggml.merges', type: 'string[]', value: merges.map((pair) => pair.join(' ')) },
  ];
}

/** The steps of a pre-tokenizer or normalizer as text, for comparing: two spellings of the same steps are equal. */
function steps(config: unknown): string[] {
  if (!isObject(config)) return [];
  const pattern = isObject(config.pattern) ? (config.pattern.Regex ?? config.pattern.String) : undefined;
  switch (config.type) {
    case 'Sequence':
      return ((config.pretokenizers ?? config.normalizers ?? []) as unknown[]).flatMap(steps);
    case 'ByteLevel':
      return [`ByteLevel(prefix ${config.add_prefix_space === true}, regex ${config.use_regex !== false})`];
    case 'Digits':
      return [`Digits(individual ${config.individual_digits === true})`];
    case 'Split':
      return [`Split(${show(pattern)}, ${String(config.behavior)}, invert ${config.invert === true})`];
    default:
      return [String(config.type)];
  }
}

/** Spaces as ▁ and unknown characters as bytes, which is what Llama's first tokenizers do. */
const isSentencePiece = ({ model }: Source): boolean => model.byte_fallback === true;

function sentencePieceEntries(source: Source, rows: number): GgufEntry[] {
  const { file, merges, description, model } = source;
  const prefix = spacePrefix(source);
  const { tokens, entries } = vocabularyEntries(source, rows);
  const types = entries[1]!.value as number[];
  for (let byte = 0; byte < 256; byte++) {
    const name = `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;
    const id = description.ids.get(name);
    if (id === undefined) throw new UsageError(`${file}: model.byte_fallback without the token ${name}`);
    types[id] = TOKEN_TYPES.byte;
  }
  const unknown = typeof model.unk_token === 'string' ? description.ids.get(model.unk_token) : undefined;
  if (unknown !== undefined) types[unknown] = TOKEN_TYPES.unknown;
  const scores = new Array<number>(tokens.length).fill(0);
  const known = new Set<string>();
  merges.forEach(([left, right], rank) => {
    known.add(`${left} ${right}`);
    const id = description.ids.get(left + right)!;
    if (scores[id] === 0) scores[id] = -(rank + 1);
  });
  // llama.cpp joins any two neighbours whose union is a token: tokenizer.json must list every such pair.
  for (const [id, token] of tokens.entries()) {
    if (types[id] !== TOKEN_TYPES.normal) continue;
    const characters = [...token];
    for (let cut = 1; cut < characters.length; cut++) {
      const [left, right] = [characters.slice(0, cut).join(''), characters.slice(cut).join('')];
      if (description.ids.has(left) && description.ids.has(right) && !known.has(`${left} ${right}`)) {
        throw new UsageError(
          `${file}: model.merges lacks ${show(`${left} ${right}`)}: llama.cpp would join them, so texts would be cut otherwise`,
        );
      }
    }
  }
  return [
    { key: 'tokenizer.ggml.model', type: 'string', value: 'llama' },
    { key: 'tokenizer.ggml.pre', type: 'string', value: 'default' },
    ...entries,
    { key: 'tokenizer.ggml.scores', type: 'f32[]', value: scores },
    { key: 'tokenizer.ggml.add_space_prefix', type: 'bool', value: prefix },
  ];
}

/** Whether ▁ is put before a text. */
function spacePrefix({ file, json, merges }: Source): boolean {
  const flat = (config: unknown): Json[] =>
    !isObject(config) ? [] : config.type === 'Sequence' ? (config.normalizers as unknown[]).flatMap(flat) : [config];
  const isReplace = (c: Json): boolean =>
    c.type === 'Replace' && c.content === '▁' && isObject(c.pattern) && c.pattern.String === ' ';
  const normalizers = flat(json.normalizer);
  const pre = json.pre_tokenizer;
  if (pre == null && normalizers.length > 0 && isReplace(normalizers.at(-1)!)) {
    const before = normalizers.slice(0, -1);
    if (before.length === 0) return false;
    if (before.length === 1 && before[0]!.type === 'Prepend' && before[0]!.prepend === '▁') return true;
  }
  if (isObject(pre) && pre.type === 'Metaspace' && normalizers.length === 0 && (pre.replacement ?? '▁') === '▁') {
    const scheme = pre.prepend_scheme ?? (pre.add_prefix_space === false ? 'never' : 'always');
    const whole = pre.split === false || merges.every(([a, b]) => !/[^▁]▁/u.test(a + b));
    if (whole && scheme === 'always') return true;
    if (whole && scheme === 'never') return false;
  }
  const name = [...normalizers, ...(isObject(pre) ? [pre] : [])].map((c) => show(c.type)).join(', ') || 'nothing';
  throw new UsageError(`${file}: byte_fallback with ${name} before the merges is not what llama.cpp's SentencePiece does`);
}
