import { existsSync } from 'node:fs';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';
import { UsageError } from '../errors.ts';
import { ChatTemplate, ChatTemplateError, type Message } from './chat_template.ts';
import { createDecoder, type Decoder } from './decoder.ts';
import { leadingSpecialTokens, namedTokens, type NamedTokens } from './special_tokens.ts';
import { TextStream } from './text_stream.ts';
import { describeTokenizer, isObject, show, type Json, type TokenizerDescription } from './tokenizer_json.ts';

/** The files of a tokenizer, as they stand in a model folder. */
export type TokenizerFiles = Map<string, string>;

/** The largest published tokenizer.json has 33 MB. */
const MAX_FILE_BYTES = 128 * 2 ** 20;
const FILE_NAMES = ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'chat_template.jinja'];
/** Where generation stops, for the model that is made of this one as well. */
const GENERATION = 'generation_config.json';

/** A text that holds a token without a row in the model's embedding. */
export class TokenError extends Error {}

/** Text to ids and back, as transformers does it for the same files. Broken files are a UsageError that names them. */
export class Tokenizer {
  /** Largest id + 1: a model may have more rows in its embedding. */
  readonly vocabSize: number;
  readonly eosId: number;
  readonly bosId: number | undefined;
  readonly padId: number | undefined;
  /** Generation stops at any of these: generation_config.json's and `eosId`. */
  readonly eosIds: ReadonlySet<number>;
  /** The tokenizer's own tokens before a text: BOS or nothing, as a rule. */
  readonly prefixIds: readonly number[];
  readonly #library: LibraryTokenizer;
  readonly #description: TokenizerDescription;
  readonly #decoder: Decoder;
  readonly #names: NamedTokens;
  readonly #files: TokenizerFiles;
  #templateSource: string | undefined;
  #template: ChatTemplate | undefined;
  /** Rows of the embedding that the ids are for. */
  #rows = Infinity;

  private constructor(files: TokenizerFiles, description: TokenizerDescription, config: Json, generation: Json) {
    this.#files = files;
    this.#description = description;
    this.#decoder = createDecoder(description.decoder);
    this.#library = new LibraryTokenizer(description.forLibrary, { clean_up_tokenization_spaces: false });
    this.#names = namedTokens(config, description.ids, generation);
    const { eos_token: eos, bos_token: bos, pad_token: pad } = this.#names;
    this.eosId = description.ids.get(eos)!;
    this.bosId = bos === undefined ? undefined : description.ids.get(bos);
    this.padId = pad === undefined ? undefined : description.ids.get(pad);
    this.eosIds = new Set([this.eosId, ...generationStops(generation)]);
    this.prefixIds = leadingSpecialTokens(description, config, this.bosId);
    let largest = 0;
    for (const id of description.tokens.keys()) largest = Math.max(largest, id);
    this.vocabSize = largest + 1;
    this.#templateSource = files.get('chat_template.jinja') ?? templateOf(config);
    // Fail on load, not on the first row.
    this.encode('a');
  }

  /**
   * Reads a model folder's tokenizer.json with, where they are there, the other tokenizer files.
   * @param models the first of these folders that has a generation_config.json says where generation stops, else the first that has a config.json
   */
  static async load(dir: string, models: readonly string[] = [dir]): Promise<Tokenizer> {
    const files: TokenizerFiles = new Map();
    for (const name of FILE_NAMES) {
      const text = await readIfThere(dir, name);
      if (text !== undefined) files.set(name, text);
    }
    if (!files.has('tokenizer.json')) {
      const older = ['tokenizer.model', 'vocab.json'].find((name) => existsSync(join(dir, name)));
      throw new UsageError(
        `${dir}: no tokenizer.json there${older ? ` (${older} alone is not a format that rlhf reads)` : ''}`,
        older && "transformers makes one: AutoTokenizer.from_pretrained('DIR').save_pretrained('DIR')",
      );
    }
    const [config, generation] = [await firstOf(models, 'config.json'), await firstOf(models, GENERATION)];
    const ids = { ...tokenIds(config.value), ...generation.value };
    const text = generation.text ?? (Object.keys(ids).length > 0 ? `${JSON.stringify(ids, null, 2)}\n` : undefined);
    if (text !== undefined) files.set(GENERATION, text);
    return Tokenizer.#build(files, (name) => join(dir, name), ids);
  }

  /** From parsed files; `tokenizerConfig` may hold the chat template. */
  static fromJson(tokenizerJson: object, tokenizerConfig: object = {}, generationConfig: object = {}): Tokenizer {
    const files: TokenizerFiles = new Map([
      ['tokenizer.json', JSON.stringify(tokenizerJson, null, 2) + '\n'],
      ['tokenizer_config.json', JSON.stringify(tokenizerConfig, null, 2) + '\n'],
    ]);
    return Tokenizer.#build(files, (name) => name, generationConfig as Json);
  }

  static #build(files: TokenizerFiles, nameOf: (file: string) => string, generation: Json): Tokenizer {
    const parsed = (name: string) => parseObject(files.get(name), nameOf(name));
    const config = { ...parsed('special_tokens_map.json'), ...parsed('tokenizer_config.json') };
    const json = parsed('tokenizer.json');
    try {
      const extra = isObject(config.added_tokens_decoder) ? config.added_tokens_decoder : {};
      return new Tokenizer(files, describeTokenizer(json, extra), config, generation);
    } catch (error) {
      if (error instanceof UsageError) {
        throw new UsageError(error.message.replace(/^[a-z_]+\.json/, (name) => nameOf(name)), error.hint);
      }
      const reason = error instanceof Error ? error.message.split('\n')[0].slice(0, 300) : String(error);
      throw new UsageError(`${nameOf('tokenizer.json')}: ${reason}`);
    }
  }

  /** True where the tokenizer puts BOS before a text by itself. */
  get addsBos(): boolean {
    return this.bosId !== undefined && this.prefixIds[0] === this.bosId;
  }

  /** The chat template as Jinja text, if there is one. */
  get chatTemplateSource(): string | undefined {
    return this.#templateSource;
  }

  get hasChatTemplate(): boolean {
    return this.#templateSource !== undefined;
  }

  /**
   * From here on ids are for an embedding of so many rows, fewer perhaps than there are tokens: a text that needs another is a
   * TokenError.
   * @throws UsageError where the model could not even end an answer
   */
  limitIds(rows: number, dir: string): void {
    if (this.eosId >= rows) {
      throw new UsageError(`${join(dir, 'tokenizer.json')}: EOS ${show(this.tokenOf(this.eosId))} has the id ${this.eosId}, ${noRow(rows)}`);
    }
    this.#rows = rows;
  }

  /** Ids of a text without added special tokens; special tokens spelt out in the text are recognised. */
  encode(text: string): number[] {
    if (text === '') return [];
    const { ids } = this.#library.encode(text, { add_special_tokens: false });
    for (const id of ids) {
      if (id >= this.#rows) throw new TokenError(`holds ${show(this.tokenOf(id))}, token ${id}, ${noRow(this.#rows)}`);
    }
    return ids;
  }

  /** Ids of a prompt: the tokenizer's own leading special tokens, then the text, never a trailing EOS. */
  encodePrompt(text: string): number[] {
    return [...this.prefixIds, ...this.encode(text)];
  }

  /** The text of ids; an id outside the vocabulary has none. Spaces are left as they are. */
  decode(ids: Iterable<number>, options: { skipSpecialTokens?: boolean } = {}): string {
    const { tokens, specialIds } = this.#description;
    const texts: string[] = [];
    for (const id of ids) {
      const token = tokens.get(id);
      if (token === undefined || (options.skipSpecialTokens && specialIds.has(id))) continue;
      texts.push(token);
    }
    return this.#decoder(texts);
  }

  /** The entry with this id, as the vocabulary spells it. */
  tokenOf(id: number): string | undefined {
    return this.#description.tokens.get(id);
  }

  /** The id of a vocabulary entry, as the vocabulary spells it. */
  idOf(token: string): number | undefined {
    return this.#description.ids.get(token);
  }

  isSpecial(id: number): boolean {
    return this.#description.specialIds.has(id);
  }

  /** Text that appears as ids come in, without special tokens and without broken characters. */
  stream(): TextStream {
    return new TextStream((ids) => this.decode(ids, { skipSpecialTokens: true }));
  }

  /** Takes another chat template (Jinja text) for this tokenizer, saved with it as chat_template.jinja. */
  setChatTemplate(source: string): void {
    this.#templateSource = source;
    this.#template = undefined;
    this.#files.set('chat_template.jinja', source);
  }

  /** The chat template; a UsageError that names --chat-template where there is none or it is broken. */
  chatTemplate(): ChatTemplate {
    if (this.#template) return this.#template;
    if (this.#templateSource === undefined) {
      throw new UsageError(
        'the data holds messages, but the model has no chat template',
        'give one with --chat-template FILE',
      );
    }
    try {
      return (this.#template = new ChatTemplate(this.#templateSource, this.#names));
    } catch (error) {
      if (!(error instanceof ChatTemplateError)) throw error;
      throw new UsageError(error.message, 'give another one with --chat-template FILE');
    }
  }

  /** The conversation as text; a conversation that the template refuses is a ChatTemplateError. */
  renderChat(messages: readonly Message[], options: { addGenerationPrompt?: boolean } = {}): string {
    return this.chatTemplate().render(messages, options);
  }

  /** Ids of the rendered conversation, without BOS or EOS of the tokenizer's own. */
  chatIds(messages: readonly Message[], options: { addGenerationPrompt?: boolean } = {}): number[] {
    return this.encode(this.renderChat(messages, options));
  }

  /**
   * Ids of a whole conversation and the [begin, end) token spans of the assistant's turns, each with its end-of-turn
   * token; `index` is the message's place. A token that reaches from the generation prompt into a turn belongs to it.
   */
  chatTurns(messages: readonly Message[]): { ids: number[]; turns: { index: number; begin: number; end: number }[] } {
    const rendered = this.chatTemplate().renderTurns(messages);
    const ids = this.encode(rendered.text);
    const place = (offset: number) => {
      if (offset === rendered.text.length) return ids.length;
      const part = this.encode(rendered.text.slice(0, offset));
      let same = 0;
      while (same < part.length && part[same] === ids[same]) same++;
      return same;
    };
    const turns = rendered.turns.map(({ index, begin, end }) => {
      const first = place(begin);
      const last = place(end);
      // White space that the template puts behind the end-of-turn token is nothing the model has to say.
      let stop = last;
      while (stop > first && !this.isSpecial(ids[stop - 1]) && this.decode([ids[stop - 1]]).trim() === '') stop--;
      return { index, begin: first, end: stop > first && this.isSpecial(ids[stop - 1]) ? stop : last };
    });
    return { ids, turns };
  }

  /** Writes the tokenizer's files as they were read, and where generation stops. */
  async save(dir: string): Promise<void> {
    for (const [name, text] of this.#files) await writeFile(join(dir, name), text);
  }

  /** The files as `save` writes them. */
  get files(): ReadonlyMap<string, string> {
    return this.#files;
  }
}

const noRow = (rows: number): string => `but the model's embedding has ${rows} rows`;

async function readIfThere(dir: string, name: string): Promise<string | undefined> {
  const path = join(dir, name);
  let bytes: Buffer;
  try {
    const { size } = await stat(path);
    if (size > MAX_FILE_BYTES) throw new UsageError(`${path}: ${size} bytes is too large for a ${name}`);
    bytes = await readFile(path);
  } catch (error) {
    if (error instanceof UsageError) throw error;
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new UsageError(`${path}: cannot be read (${(error as NodeJS.ErrnoException).code})`);
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new UsageError(`${path}: not UTF-8 text`);
  }
}

/** A JSON file of the first of these folders that has it. */
async function firstOf(folders: readonly string[], name: string): Promise<{ text?: string; value: Json }> {
  for (const folder of folders) {
    const text = await readIfThere(folder, name);
    if (text !== undefined) return { text, value: parseObject(text, join(folder, name)) };
  }
  return { value: {} };
}

function parseObject(text: string | undefined, path: string): Json {
  if (text === undefined) return {};
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new UsageError(`${path}: not JSON (${(error as Error).message.split('\n')[0].slice(0, 120)})`);
  }
  if (!isObject(value)) throw new UsageError(`${path}: not a JSON object`);
  return value;
}

function tokenIds(modelConfig: Json): Json {
  const { bos_token_id, eos_token_id, pad_token_id } = modelConfig;
  return Object.fromEntries(
    Object.entries({ bos_token_id, eos_token_id, pad_token_id }).filter(([, id]) => id !== undefined && id !== null),
  );
}

function generationStops(generation: Json): number[] {
  const value = generation.eos_token_id;
  if (value === undefined || value === null) return [];
  const ids: unknown[] = Array.isArray(value) ? value : [value];
  for (const id of ids) {
    if (!Number.isInteger(id) || (id as number) < 0) {
      throw new UsageError(`generation_config.json: eos_token_id ${show(id)} is not a token id`);
    }
  }
  return ids as number[];
}

function templateOf(config: Json): string | undefined {
  const template = config.chat_template;
  if (template === undefined || template === null) return undefined;
  if (typeof template === 'string') return template;
  // Several templates by name: a list, or an object in files of transformers 5.
  const list: unknown[] | undefined = isObject(template)
    ? Object.entries(template).map(([name, text]) => ({ name, template: text }))
    : Array.isArray(template) ? template : undefined;
  if (list) {
    const named = list.filter((entry): entry is Json => isObject(entry) && typeof entry.template === 'string');
    const chosen = named.find((entry) => entry.name === 'default') ?? (named.length === 1 ? named[0] : undefined);
    if (chosen) return chosen.template as string;
  }
  throw new UsageError('tokenizer_config.json: chat_template is neither a text nor a list with one named "default"');
}
