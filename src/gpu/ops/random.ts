const highWord = (a: number, b: number): number => {
  const al = a & 0xffff;
  const ah = a >>> 16;
  const bl = b & 0xffff;
  const bh = b >>> 16;
  const middle = ah * bl + ((al * bl) >>> 16);
  return (ah * bh + Math.floor(middle / 65536) + Math.floor((al * bh + (middle % 65536)) / 65536)) >>> 0;
};

/**
 * Philox 4x32-10, bit for bit as kernels/random.wgsl computes it: four 32-bit words from a counter of four words and a
 * key of two. Numbers are taken modulo 2³².
 */
export function philox(counter: readonly number[], key: readonly number[]): [number, number, number, number] {
  let [x, y, z, w] = counter.map((n) => n >>> 0);
  let [k0, k1] = key.map((n) => n >>> 0);
  for (let round = 0; round < 10; round++) {
    [x, y, z, w] = [
      (highWord(0xcd9e8d57, z) ^ y ^ k0) >>> 0,
      Math.imul(0xcd9e8d57, z) >>> 0,
      (highWord(0xd2511f53, x) ^ w ^ k1) >>> 0,
      Math.imul(0xd2511f53, x) >>> 0,
    ];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [x, y, z, w];
}

/** A number in [0, 1) from 32 random bits: the upper 24 of them, exact in float32. */
export const uniform24 = (bits: number): number => (bits >>> 8) / 2 ** 24;
