import type { ModelConfig } from '../model/config.ts';
import { parseJsonObject } from './json.ts';

/** The files of a Hugging Face folder that make up its tokenizer. */
export const TOKENIZER_FILES = [
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'vocab.json',
  'merges.txt',
  'tokenizer.model',
  'chat_template.jinja',
  'chat_template.json',
] as const;

interface AddedToken {
  id: number;
  content: string;
  special?: boolean;
}

/**
 * The pad token of a reward model. transformers reads the score at the last token that is not `pad_token_id`, so it
 * must not be EOS, the config's or the tokenizer's, with which rows end: where it is (or where there is none), another special token takes its place that no text contains:
 * the tokenizer's own pad token, or one that is no BOS, EOS or UNK and does not occur in the chat template.
 * @returns the id, or none where there is no such token; `token` is set where the tokenizer must be told as well
 */
export function chooseRewardPad(
  config: ModelConfig,
  files: Map<string, string | Uint8Array>,
): { id?: number; token?: string } {
  const tokenizer = readJson(files, 'tokenizer.json');
  const settings = readJson(files, 'tokenizer_config.json');
  const added = Array.isArray(tokenizer['added_tokens']) ? (tokenizer['added_tokens'] as AddedToken[]) : [];
  const eos = tokenText(settings['eos_token'] ?? readJson(files, 'special_tokens_map.json')['eos_token']);
  const isEos = (id: number): boolean => id === config.eosId || (eos !== undefined && idOf(eos, added, tokenizer) === id);
  if (config.padId !== undefined && !isEos(config.padId)) return { id: config.padId };
  const taken = ['bos_token', 'eos_token', 'unk_token'].map((key) => tokenText(settings[key]));
  const templates = [settings['chat_template'], files.get('chat_template.jinja')?.toString()].map((template) =>
    typeof template === 'string' ? template : JSON.stringify(template ?? ''),
  );
  const free = added.filter(
    ({ id, content, special }) =>
      special === true &&
      Number.isInteger(id) &&
      id < config.vocabSize &&
      !isEos(id) &&
      id !== config.bosId &&
      !taken.includes(content) &&
      !templates.some((template) => template.includes(content)),
  );
  const own = tokenText(settings['pad_token']);
  const best =
    free.find(({ content }) => content === own) ?? free.find(({ content }) => /pad/i.test(content)) ?? free[0];
  return best ? { id: best.id, ...(best.content === own ? {} : { token: best.content }) } : {};
}

/** tokenizer_config.json with another pad token, so that batches padded by the tokenizer are read rightly. */
export function withPadToken(tokenizerConfig: string | Uint8Array, token: string): string {
  const settings = parseJsonObject(Buffer.from(tokenizerConfig), 'tokenizer_config.json');
  return `${JSON.stringify({ ...settings, pad_token: token }, null, 2)}\n`;
}

/** The id of a token, added or of the vocabulary itself (an object in BPE's and WordPiece's files, a list of pairs in Unigram's). */
function idOf(text: string, added: readonly AddedToken[], tokenizer: Record<string, unknown>): number | undefined {
  const own = added.find(({ content }) => content === text)?.id;
  if (own !== undefined) return own;
  const vocabulary = (tokenizer['model'] as { vocab?: unknown } | undefined)?.vocab;
  if (Array.isArray(vocabulary)) return vocabulary.findIndex((entry) => Array.isArray(entry) && entry[0] === text);
  const id = (vocabulary as Record<string, unknown> | undefined)?.[text];
  return typeof id === 'number' ? id : undefined;
}

function tokenText(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === 'string' ? content : undefined;
}

function readJson(files: Map<string, string | Uint8Array>, name: string): Record<string, unknown> {
  const content = files.get(name);
  return content === undefined ? {} : parseJsonObject(Buffer.from(content), name);
}
