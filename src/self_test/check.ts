import type { Storage } from '../gpu/tensor.ts';

/** One comparison of a kernel's numbers with the reference's. */
export interface Check {
  what: string;
  /** ‖actual − expected‖ / ‖expected‖; infinite where a number is not finite or one is missing. */
  error: number;
  allowed: number;
}

/** The test of one op: which kernel files it runs, and how they compare with float64. */
export interface KernelTest {
  name: string;
  /** Names of the files in kernels/ that it covers. */
  kernels: readonly string[];
  /** A device feature without which there is nothing to test. */
  needs?: 'shader-f16';
  run(): Promise<Check[]>;
}

/** A test with its tensors in f32, and with those in f16 that --dtype f16 stores so. */
export const inBoth = (name: string, kernels: readonly string[], run: (storage: Storage) => Promise<Check[]>): KernelTest[] => [
  { name, kernels, run: () => run('f32') },
  { name: `${name}_f16`, kernels, needs: 'shader-f16', run: () => run('f16') },
];

/** ‖actual − expected‖ / ‖expected‖ over whole tensors. Where the reference is all zeros the result must be too. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity;
  let difference = 0;
  let size = 0;
  for (let i = 0; i < expected.length; i++) {
    if (!Number.isFinite(actual[i])) return Infinity;
    difference += (actual[i] - expected[i]) ** 2;
    size += expected[i] ** 2;
  }
  if (difference === 0) return 0;
  return size === 0 ? Infinity : Math.sqrt(difference / size);
}

/** float32 through a few thousand additions; functions that WGSL leaves to the driver (exp, tanh) stay below too. */
export const ROUNDING = 1e-5;

/** What a tensor may be off by that is stored like this: drivers may round to either of the halves beside a number. */
export const roundingOf = (storage: Storage): number => (storage === 'f16' ? 2 ** -10 : ROUNDING);

/** Compares two tensors; `allowed` is 0 where the numbers must be equal. */
export const close = (
  what: string,
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  allowed = ROUNDING,
): Check => ({ what, error: relativeError(actual, expected), allowed });

/** A comparison is passed by an error within bounds; NaN is none. */
export const passed = ({ error, allowed }: Check): boolean => error <= allowed;
