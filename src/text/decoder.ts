import { tokenBytes } from './byte_level.ts';

/** Turns a list of vocabulary entries into text. */
export type Decoder = (tokens: string[]) => string;

type Step = (tokens: string[]) => string[];
type Json = Record<string, unknown>;

const MAX_NESTING = 16;

/**
 * The decoder that tokenizer.json describes, with the Rust library's results (the JavaScript one drops a U+FEFF
 * and maps unknown characters to zero bytes). Throws an Error that names a kind or a field it does not know.
 */
export function createDecoder(config: unknown): Decoder {
  if (config === null || config === undefined) return (tokens) => tokens.join(' ');
  const step = createStep(config as Json, 0);
  return (tokens) => step(tokens).join('');
}

function createStep(config: Json, depth: number): Step {
  if (depth > MAX_NESTING) throw new Error('decoder: nested too deeply');
  switch (config.type) {
    case 'ByteLevel':
      return byteLevel;
    case 'ByteFallback':
      return byteFallback;
    case 'Fuse':
      return (tokens) => [tokens.join('')];
    case 'Replace':
      return replace(config);
    case 'Strip':
      return strip(config);
    case 'Metaspace':
      return metaspace(config);
    case 'Sequence': {
      if (!Array.isArray(config.decoders)) throw new Error('decoder: Sequence without a list of decoders');
      const steps = config.decoders.map((inner) => createStep(asObject(inner), depth + 1));
      return (tokens) => steps.reduce((result, step) => step(result), tokens);
    }
    default:
      throw new Error(`decoder type ${JSON.stringify(config.type)?.slice(0, 40)} is not supported`);
  }
}

function asObject(value: unknown): Json {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Error('decoder: not an object');
  return value as Json;
}

const lossy = new TextDecoder('utf-8', { ignoreBOM: true });
const strict = new TextDecoder('utf-8', { ignoreBOM: true, fatal: true });

const byteLevel: Step = (tokens) => [lossy.decode(Buffer.concat(tokens.map(tokenBytes)))];

const byteFallback: Step = (tokens) => {
  const texts: string[] = [];
  let run: number[] = [];
  const flush = () => {
    if (run.length === 0) return;
    // A run that is not UTF-8 becomes one replacement character a byte.
    try {
      texts.push(strict.decode(Uint8Array.from(run)));
    } catch {
      for (let i = 0; i < run.length; i++) texts.push('\ufffd');
    }
    run = [];
  };
  for (const token of tokens) {
    const byte = /^<0x([0-9A-Fa-f]{2})>$/.exec(token);
    if (byte) {
      run.push(parseInt(byte[1], 16));
    } else {
      flush();
      texts.push(token);
    }
  }
  flush();
  return texts;
};

function replace(config: Json): Step {
  const pattern = config.pattern as Json | undefined;
  const content = config.content;
  if (typeof pattern?.String !== 'string' || typeof content !== 'string') {
    throw new Error('decoder: Replace needs {"pattern": {"String": …}, "content": …}');
  }
  const from = pattern.String;
  return (tokens) => tokens.map((token) => token.replaceAll(from, () => content));
}

function strip(config: Json): Step {
  const { content, start, stop } = config;
  const count = (n: unknown) => Number.isInteger(n) && (n as number) >= 0;
  if (typeof content !== 'string' || [...content].length !== 1 || !count(start) || !count(stop)) {
    throw new Error('decoder: Strip needs a one-character "content" and counts "start" and "stop"');
  }
  return (tokens) =>
    tokens.map((token) => {
      let from = 0;
      let to = token.length;
      for (let i = 0; i < (start as number) && token.startsWith(content, from); i++) from += content.length;
      for (let i = 0; i < (stop as number) && to > from && token.slice(from, to).endsWith(content); i++) {
        to -= content.length;
      }
      return token.slice(from, to);
    });
}

function metaspace(config: Json): Step {
  const replacement = config.replacement ?? '▁';
  if (typeof replacement !== 'string' || replacement === '') throw new Error('decoder: Metaspace "replacement"');
  const prepends = config.prepend_scheme ? config.prepend_scheme !== 'never' : config.add_prefix_space !== false;
  return (tokens) => tokens.map((token, i) => token.replaceAll(replacement, i === 0 && prepends ? '' : ' '));
}
