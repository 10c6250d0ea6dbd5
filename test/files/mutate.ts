/** A seeded generator (mulberry32): the same seed gives the same mutations everywhere. */
export function seeded(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

/** Mutations a reader; RLHF_FUZZ_CASES asks for more. */
export const FUZZ_CASES = Number(process.env['RLHF_FUZZ_CASES'] ?? 300);

const WORDS = [
  'null',
  '-1',
  '1e999',
  '0',
  '9007199254740993',
  '1.5',
  '""',
  '[]',
  '{}',
  'true',
  '"\\u0000"',
  '[[[[[[[[',
  '}',
  ',',
  '\n',
];
const LENGTHS = [0n, 1n, 7n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 53n + 1n, 2n ** 63n, 2n ** 64n - 1n];

/**
 * One to four random changes in `bytes`, most of them in the first `head` bytes, where headers are: flipped bits,
 * overwritten lengths, cut or doubled pieces, JSON words put in place of others.
 */
export function mutate(bytes: Uint8Array, random: (below: number) => number, head = 4096): Buffer {
  let out = Buffer.from(bytes);
  for (let n = 1 + random(4); n > 0; n--) {
    const at = random(Math.min(out.length, random(4) ? head : out.length) || 1);
    switch (random(7)) {
      case 0:
        if (out.length) out[at] = out[at]! ^ (1 << random(8));
        break;
      case 1:
        if (out.length) out[at] = random(256);
        break;
      case 2:
        if (at + 8 <= out.length) out.writeBigUInt64LE(LENGTHS[random(LENGTHS.length)]!, at);
        break;
      case 3:
        out = out.subarray(0, at);
        break;
      case 4: {
        const piece = out.subarray(at, at + random(64));
        out = Buffer.concat([out.subarray(0, at), piece, out.subarray(at)]);
        break;
      }
      case 5:
        out = Buffer.concat([out.subarray(0, at), out.subarray(at + 1 + random(16))]);
        break;
      default: {
        // A number or word of JSON text becomes another one.
        const text = out.toString('latin1');
        const token = /-?\d+|"[^"]*"|true|false|null/g;
        token.lastIndex = at;
        const match = token.exec(text);
        const word = WORDS[random(WORDS.length)]!;
        if (match) out = Buffer.from(text.slice(0, match.index) + word + text.slice(token.lastIndex), 'latin1');
      }
    }
  }
  return out;
}
