// A SentencePiece tokenizer of a GGUF file (tokenizer.ggml.model "llama") as the parts of a tokenizer.json.
import type { GgufMetadata } from './gguf_metadata.ts';
import { TOKEN_TYPES, type TokenizerParts } from './gguf_tokenizer.ts';

const SPACE = '▁';

/**
 * llama.cpp joins the two neighbours whose union is the token with the highest score, the leftmost first, and spells what
 * is left over in bytes. As merges: every way to put a token together from two others, best score first. Only where one
 * token can be put together in two ways that overlap ("aaa") may an order differ, as it does in transformers' own converter.
 * @throws UsageError naming the key that is missing, or the byte that has no token
 */
export function sentencePieceParts(metadata: GgufMetadata, vocabulary: ReadonlyMap<string, number>): TokenizerParts {
  const types = metadata.numbers('tokenizer.ggml.token_type');
  const scores = metadata.numbers('tokenizer.ggml.scores');
  for (const [key, list] of [['token_type', types], ['scores', scores]] as const) {
    if (list.length !== vocabulary.size) {
      throw metadata.fail(`tokenizer.ggml.${key}: has ${list.length} entries for ${vocabulary.size} tokens`);
    }
  }
  const bad = scores.findIndex((score) => !Number.isFinite(score));
  if (bad >= 0) throw metadata.fail(`tokenizer.ggml.scores: entry ${bad} is ${scores[bad]}`);
  for (let byte = 0; byte < 256; byte++) {
    const name = `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;
    if (!vocabulary.has(name)) throw metadata.fail(`tokenizer.ggml.tokens: the token ${name} is missing`);
  }
  const prefix = metadata.flag('tokenizer.ggml.add_space_prefix', true);
  const toSpace = { type: 'Replace', pattern: { String: SPACE }, content: ' ' };
  const fromSpace = { type: 'Replace', pattern: { String: ' ' }, content: SPACE };
  const unknown = types.indexOf(TOKEN_TYPES.unknown);
  return {
    normalizer: prefix ? { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: SPACE }, fromSpace] } : fromSpace,
    preTokenizer: null,
    decoder: {
      type: 'Sequence',
      decoders: [toSpace, { type: 'ByteFallback' }, { type: 'Fuse' }, ...(prefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : [])],
    },
    merges: mergesByScore(vocabulary, types, scores),
    byteFallback: true,
    ignoreMerges: false,
    unknown: unknown < 0 ? null : [...vocabulary.keys()][unknown]!,
  };
}

/**
 * "left right" for tokens whose union is a token, by the union's score; of one token's pairs, the one with the older left
 * part first. A token with a space in it is never met: spaces are ▁ by then.
 */
function mergesByScore(vocabulary: ReadonlyMap<string, number>, types: number[], scores: number[]): string[] {
  const pieces = new Map([...vocabulary].filter(([token, id]) => types[id] === TOKEN_TYPES.normal && !token.includes(' ')));
  const found: { merge: string; id: number; left: number }[] = [];
  for (const [token, id] of pieces) {
    // A character may be two UTF-16 units long: a cut inside it gives no token.
    for (let cut = 1; cut < token.length; cut++) {
      const left = pieces.get(token.slice(0, cut));
      if (left === undefined || !pieces.has(token.slice(cut))) continue;
      found.push({ merge: `${token.slice(0, cut)} ${token.slice(cut)}`, id, left });
    }
  }
  found.sort((a, b) => scores[b.id]! - scores[a.id]! || a.id - b.id || a.left - b.left);
  return found.map(({ merge }) => merge);
}
