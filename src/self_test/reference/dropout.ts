import { philox } from '../../gpu/ops/random.ts';

/** 1 where the number (token, column) is kept, 0 where it is dropped: see kernels/dropout.wgsl. */
export function keeps(
  token: readonly [number, number],
  column: number,
  site: number,
  state: readonly [number, number],
  rate: number,
): number {
  const bits = philox([token[0], token[1], site, column >> 2], [state[0], (state[1] ^ 0x64726f70) >>> 0]);
  return bits[column & 3] >= Math.floor(rate * 2 ** 32) ? 1 : 0;
}
