// Conversions between float32 and the narrower formats in which weights are stored.

const word = new DataView(new ArrayBuffer(8));
let halfTable: Float32Array | undefined;

/** The value of an IEEE 754 binary16 number given as its 16 bits. */
export function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -24 * fraction;
}

/** All 65,536 half values: a look-up is several times faster than taking each apart. */
export function halfValues(): Float32Array {
  if (!halfTable) {
    halfTable = new Float32Array(65536);
    for (let bits = 0; bits < 65536; bits++) halfTable[bits] = halfToFloat(bits);
  }
  return halfTable;
}

/** The 16 bits of the binary16 number nearest to a float32 (ties to even); too large a value becomes infinite. */
export function floatToHalf(value: number): number {
  word.setFloat32(0, value, true);
  const bits = word.getUint32(0, true);
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // from 65520 on the nearest half is infinite
  if (magnitude < 0x38800000) {
    // Subnormal half: a multiple of 2^-24. Adding 2^-1 leaves exactly those bits in float32, rounded ties to even.
    word.setFloat32(0, Math.fround(Math.abs(value) + 0.5), true);
    return sign | (word.getUint32(0, true) - 0x3f000000);
  }
  const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
  return sign | ((rounded - 0x38000000) >>> 13);
}

/** The binary16 numbers nearest to float32 values (ties to even), as their bits. */
export function halvesOf(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(values.length);
  for (let i = 0; i < halves.length; i++) {
    const magnitude = bits[i] & 0x7fffffff;
    // Numbers that are normal halves too; the few others take the long way.
    halves[i] = magnitude >= 0x38800000 && magnitude < 0x477ff000
      ? (bits[i] >>> 16) & 0x8000 | ((magnitude + 0xfff + ((magnitude >>> 13) & 1) - 0x38000000) >>> 13)
      : floatToHalf(values[i]);
  }
  return halves;
}

/** The 16 bits of the bfloat16 number nearest to a float32 (ties to even). */
export function floatToBfloat(value: number): number {
  word.setFloat32(0, value, true);
  const bits = word.getUint32(0, true);
  if ((bits & 0x7fffffff) > 0x7f800000) return ((bits >>> 16) | 0x40) & 0xffff;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** Index of the first value which is NaN or infinite, or -1. */
export function firstNonFinite(values: Float32Array): number {
  for (let i = 0; i < values.length; i++) {
    const v = values[i]!;
    if (v - v !== 0) return i;
  }
  return -1;
}
