import { UsageError } from '../errors.ts';
import { isObject, show, type Json, type TokenizerDescription } from './tokenizer_json.ts';

/** Texts of the tokens that have a role; all of them are in the vocabulary. */
export interface NamedTokens {
  eos_token: string;
  bos_token?: string;
  pad_token?: string;
  unk_token?: string;
}

/** What transformers' classes take where tokenizer_config.json names nothing. */
const CLASS_DEFAULTS: Record<string, Partial<NamedTokens>> = {
  GPT2Tokenizer: { bos_token: '<|endoftext|>', eos_token: '<|endoftext|>' },
  LlamaTokenizer: { bos_token: '<s>', eos_token: '</s>', unk_token: '<unk>' },
  CodeLlamaTokenizer: { bos_token: '<s>', eos_token: '</s>', unk_token: '<unk>' },
  Qwen2Tokenizer: { eos_token: '<|endoftext|>', pad_token: '<|endoftext|>' },
};
/** Classes that put BOS before a text unless `add_bos_token` is false, whatever the post-processor says. */
const BOS_CLASSES = new Set(['LlamaTokenizer', 'CodeLlamaTokenizer', 'GemmaTokenizer']);
const ROLES = ['eos_token', 'bos_token', 'pad_token', 'unk_token'] as const;

/**
 * The special tokens from tokenizer_config.json (or special_tokens_map.json), else from the ids in the model's
 * configuration, else the class's defaults. A tokenizer without EOS is a UsageError: responses could never end.
 */
export function namedTokens(config: Json, ids: Map<string, number>, generation: Json): NamedTokens {
  const defaults = CLASS_DEFAULTS[className(config)] ?? {};
  const textOfId = new Map([...ids].map(([token, id]) => [id, token]));
  const names: Partial<NamedTokens> = {};
  for (const role of ROLES) {
    const value = isObject(config[role]) ? config[role].content : config[role];
    if (value !== undefined && value !== null && typeof value !== 'string') {
      throw new UsageError(`tokenizer_config.json: ${role} ${show(value)} is not a text`);
    }
    if (typeof value === 'string') {
      if (!ids.has(value)) {
        throw new UsageError(`tokenizer_config.json: ${role} ${show(value)} is not in tokenizer.json's vocabulary`);
      }
      names[role] = value;
    } else if (value === undefined) {
      const given = generation[`${role}_id`];
      const id: unknown = Array.isArray(given) ? given[0] : given;
      const fallback = typeof id === 'number' ? textOfId.get(id) : undefined;
      const text = fallback ?? defaults[role];
      if (text !== undefined && ids.has(text)) names[role] = text;
    }
  }
  // A bare tokenizer.json of GPT-2's kind says nothing about roles.
  if (names.eos_token === undefined && ids.has('<|endoftext|>')) {
    names.eos_token = '<|endoftext|>';
    if (Object.keys(config).length === 0) names.bos_token ??= '<|endoftext|>';
  }
  if (names.eos_token === undefined) {
    throw new UsageError(
      'tokenizer_config.json: the tokenizer has no end-of-sequence token',
      'name one as eos_token in tokenizer_config.json',
    );
  }
  return names as NamedTokens;
}

/** Ids that the tokenizer puts before a text: what its post-processor says, unless its class has a switch for BOS. */
export function leadingSpecialTokens(
  description: TokenizerDescription,
  config: Json,
  bosId: number | undefined,
): number[] {
  const leading = leadingOf(description.postProcessor, description, 0);
  if (BOS_CLASSES.has(className(config))) return config.add_bos_token === false || bosId === undefined ? [] : [bosId];
  // Other classes do not look at the switch; where none is named, it is all there is to go by.
  if (leading.length === 0 && className(config) === '' && config.add_bos_token === true && bosId !== undefined) return [bosId];
  return leading;
}

function className(config: Json): string {
  return typeof config.tokenizer_class === 'string' ? config.tokenizer_class.replace(/Fast$/, '') : '';
}

function leadingOf(processor: unknown, description: TokenizerDescription, depth: number): number[] {
  if (processor === undefined || processor === null) return [];
  if (!isObject(processor) || depth > 16) throw new Error('post_processor is not an object');
  switch (processor.type) {
    case 'ByteLevel':
      return [];
    case 'Sequence':
      if (!Array.isArray(processor.processors)) throw new Error('post_processor: Sequence without "processors"');
      return processor.processors.flatMap((inner) => leadingOf(inner, description, depth + 1));
    case 'BertProcessing':
    case 'RobertaProcessing': {
      const cls: unknown = Array.isArray(processor.cls) ? processor.cls[1] : undefined;
      return [knownId(cls, description)];
    }
    case 'TemplateProcessing': {
      if (!Array.isArray(processor.single)) throw new Error('post_processor: TemplateProcessing without "single"');
      const special = isObject(processor.special_tokens) ? processor.special_tokens : {};
      const ids: number[] = [];
      for (const piece of processor.single as unknown[]) {
        const token = isObject(piece) && isObject(piece.SpecialToken) ? piece.SpecialToken.id : undefined;
        if (typeof token !== 'string') break;
        const entry = special[token];
        const found: unknown = isObject(entry) ? entry.ids : undefined;
        if (!Array.isArray(found)) throw new Error(`post_processor: no ids for ${show(token)}`);
        ids.push(...found.map((id) => knownId(id, description)));
      }
      return ids;
    }
    default:
      throw new Error(`post_processor type ${show(processor.type)} is not supported`);
  }
}

function knownId(id: unknown, description: TokenizerDescription): number {
  if (typeof id === 'number' && description.tokens.has(id)) return id;
  throw new Error(`post_processor: ${show(id)} is not an id of the vocabulary`);
}
