// The block formats of GGUF tensors (llama.cpp's ggml) and how each becomes float32.
import { halfValues } from './float_formats.ts';

/** A stored type: `values` of a row are packed into `bytes`. */
export interface GgufType {
  name: string;
  values: number;
  bytes: number;
  /**
   * Decodes whole blocks: `from` holds them one after the other, `to` gets `values` numbers for each. Absent: not
   * supported.
   */
  decode?(from: DataView, to: Float32Array): void;
}

const BLOCK = 32;
const SUPER = 256;

/** Types by their number in the file. */
export const GGUF_TYPES: ReadonlyMap<number, GgufType> = new Map<number, GgufType>([
  [0, { name: 'F32', values: 1, bytes: 4, decode: decodeFloat }],
  [1, { name: 'F16', values: 1, bytes: 2, decode: decodeHalf }],
  [2, { name: 'Q4_0', values: BLOCK, bytes: 18, decode: nibbles(18, 2, -1, (d, _m, q) => d * (q - 8)) }],
  [3, { name: 'Q4_1', values: BLOCK, bytes: 20, decode: nibbles(20, 4, -1, (d, m, q) => d * q + m) }],
  [6, { name: 'Q5_0', values: BLOCK, bytes: 22, decode: nibbles(22, 6, 2, (d, _m, q) => d * (q - 16)) }],
  [7, { name: 'Q5_1', values: BLOCK, bytes: 24, decode: nibbles(24, 8, 4, (d, m, q) => d * q + m) }],
  [8, { name: 'Q8_0', values: BLOCK, bytes: 34, decode: decodeQ8 }],
  [9, { name: 'Q8_1', values: BLOCK, bytes: 36 }],
  [10, { name: 'Q2_K', values: SUPER, bytes: 84 }],
  [11, { name: 'Q3_K', values: SUPER, bytes: 110 }],
  [12, { name: 'Q4_K', values: SUPER, bytes: 144, decode: (from, to) => decodeQ45K(from, to, false) }],
  [13, { name: 'Q5_K', values: SUPER, bytes: 176, decode: (from, to) => decodeQ45K(from, to, true) }],
  [14, { name: 'Q6_K', values: SUPER, bytes: 210, decode: decodeQ6K }],
  [15, { name: 'Q8_K', values: SUPER, bytes: 292 }],
  [16, { name: 'IQ2_XXS', values: SUPER, bytes: 66 }],
  [17, { name: 'IQ2_XS', values: SUPER, bytes: 74 }],
  [18, { name: 'IQ3_XXS', values: SUPER, bytes: 98 }],
  [19, { name: 'IQ1_S', values: SUPER, bytes: 50 }],
  [20, { name: 'IQ4_NL', values: BLOCK, bytes: 18 }],
  [21, { name: 'IQ3_S', values: SUPER, bytes: 110 }],
  [22, { name: 'IQ2_S', values: SUPER, bytes: 82 }],
  [23, { name: 'IQ4_XS', values: SUPER, bytes: 136 }],
  [24, { name: 'I8', values: 1, bytes: 1 }],
  [25, { name: 'I16', values: 1, bytes: 2 }],
  [26, { name: 'I32', values: 1, bytes: 4 }],
  [27, { name: 'I64', values: 1, bytes: 8 }],
  [28, { name: 'F64', values: 1, bytes: 8 }],
  [29, { name: 'IQ1_M', values: SUPER, bytes: 56 }],
  [30, { name: 'BF16', values: 1, bytes: 2, decode: decodeBfloat }],
  [34, { name: 'TQ1_0', values: SUPER, bytes: 54 }],
  [35, { name: 'TQ2_0', values: SUPER, bytes: 66 }],
  [39, { name: 'MXFP4', values: BLOCK, bytes: 17 }],
]);

/** Names of the types that can be read. */
export const READABLE_TYPES = [...GGUF_TYPES.values()].filter(({ decode }) => decode).map(({ name }) => name);

function decodeFloat(from: DataView, to: Float32Array): void {
  for (let i = 0; i < to.length; i++) to[i] = from.getFloat32(4 * i, true);
}

function decodeHalf(from: DataView, to: Float32Array): void {
  const half = halfValues();
  for (let i = 0; i < to.length; i++) to[i] = half[from.getUint16(2 * i, true)]!;
}

function decodeBfloat(from: DataView, to: Float32Array): void {
  const words = new Uint32Array(to.buffer, to.byteOffset, to.length);
  for (let i = 0; i < to.length; i++) words[i] = from.getUint16(2 * i, true) << 16;
}

/**
 * Q4_0, Q4_1, Q5_0, Q5_1: scale d (half), in the _1 kinds minimum m (half), in the Q5 kinds 32 fifth bits, then 16
 * bytes: value i in the low half of byte i, value i + 16 in the high half.
 */
function nibbles(size: number, quants: number, fifths: number, value: (d: number, m: number, q: number) => number) {
  return (from: DataView, to: Float32Array): void => {
    const half = halfValues();
    for (let block = 0, out = 0; out < to.length; block += size, out += BLOCK) {
      const d = half[from.getUint16(block, true)]!;
      const m = half[from.getUint16(block + 2, true)]!;
      const high = fifths < 0 ? 0 : from.getUint32(block + fifths, true);
      for (let i = 0; i < 16; i++) {
        const byte = from.getUint8(block + quants + i);
        to[out + i] = value(d, m, (byte & 15) | (((high >>> i) & 1) << 4));
        to[out + i + 16] = value(d, m, (byte >> 4) | (((high >>> (i + 16)) & 1) << 4));
      }
    }
  };
}

function decodeQ8(from: DataView, to: Float32Array): void {
  const half = halfValues();
  for (let block = 0, out = 0; out < to.length; block += 34, out += BLOCK) {
    const d = half[from.getUint16(block, true)]!;
    for (let i = 0; i < BLOCK; i++) to[out + i] = d * from.getInt8(block + 2 + i);
  }
}

/**
 * Q4_K and Q5_K: 256 values in 8 groups of 32. d and dmin (halves) scale the groups' 6-bit scales and minima, packed in
 * 12 bytes; Q5_K then has 32 bytes of fifth bits (bit g of byte i belongs to value i of group g); two groups share 32
 * bytes.
 */
function decodeQ45K(from: DataView, to: Float32Array, fifth: boolean): void {
  const half = halfValues();
  const size = fifth ? 176 : 144;
  for (let block = 0, out = 0; out < to.length; block += size, out += SUPER) {
    const d = half[from.getUint16(block, true)]!;
    const dmin = half[from.getUint16(block + 2, true)]!;
    const packed = (i: number) => from.getUint8(block + 4 + i);
    for (let group = 0; group < 8; group++) {
      const [scale, minimum] =
        group < 4
          ? [packed(group) & 63, packed(group + 4) & 63]
          : [
              (packed(group + 4) & 15) | ((packed(group - 4) >> 6) << 4),
              (packed(group + 4) >> 4) | ((packed(group) >> 6) << 4),
            ];
      const quants = block + size - 128 + 32 * (group >> 1);
      for (let i = 0; i < 32; i++) {
        const byte = from.getUint8(quants + i);
        const low = group & 1 ? byte >> 4 : byte & 15;
        const q = fifth ? low | (((from.getUint8(block + 16 + i) >> group) & 1) << 4) : low;
        to[out + 32 * group + i] = d * scale * q - dmin * minimum;
      }
    }
  }
}

/**
 * Q6_K: 128 bytes low halves, 64 bytes upper bit pairs, 16 signed scales (one per 16 values), d (half); two halves of
 * 128.
 */
function decodeQ6K(from: DataView, to: Float32Array): void {
  const half = halfValues();
  for (let block = 0, out = 0; out < to.length; block += 210, out += SUPER) {
    const d = half[from.getUint16(block + 208, true)]!;
    for (let i = 0; i < SUPER; i++) {
      const [part, quarter, lane] = [i >> 7, (i >> 5) & 3, i & 31];
      const low = from.getUint8(block + 64 * part + 32 * (quarter & 1) + lane);
      const high = from.getUint8(block + 128 + 32 * part + lane);
      const q = (quarter < 2 ? low & 15 : low >> 4) | (((high >> (2 * quarter)) & 3) << 4);
      to[out + i] = d * from.getInt8(block + 192 + (i >> 4)) * (q - 32);
    }
  }
}
