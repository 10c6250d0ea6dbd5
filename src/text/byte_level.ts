/**
 * GPT-2's split pattern. `\s` stands for Unicode White_Space, which JavaScript's own `\s` is not
 * (that one has U+FEFF and lacks U+0085), hence the property escapes.
 */
export const GPT2_PATTERN =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\p{White_Space}\\p{L}\\p{N}]+" +
  '|\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}+';

/** byte → the printable character that stands for it in a byte-level vocabulary (GPT-2's table). */
export const BYTE_TO_CHAR: readonly string[] = buildByteTable();

const CHAR_TO_BYTE = new Map(BYTE_TO_CHAR.map((char, byte) => [char, byte]));

function buildByteTable(): string[] {
  // Printable Latin-1 stands for itself; the other 68 bytes take the code points from U+0100 on, in byte order.
  const printable = (b: number) => (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
}

/** The stand-in characters of the text's UTF-8 bytes. */
export function toByteChars(text: string): string {
  let chars = '';
  for (const byte of Buffer.from(text, 'utf8')) chars += BYTE_TO_CHAR[byte];
  return chars;
}

/** The bytes that a byte-level token stands for; a token with a character outside the table is its own UTF-8. */
export function tokenBytes(token: string): Uint8Array {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = CHAR_TO_BYTE.get(token[i]);
    if (byte === undefined) return Buffer.from(token, 'utf8');
    bytes[i] = byte;
  }
  return bytes;
}
