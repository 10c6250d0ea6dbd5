import source from '../../../kernels/ema.wgsl';
import { kernel } from '../kernel.ts';
import { launch } from '../program.ts';
import type { Tensor } from '../tensor.ts';
import { grid } from './reduction.ts';

/**
 * average ← decay·average + (1 − decay)·values, in place. Both chunks have the same length, a multiple of 4; `rate` is
 * a vector that holds 1 − decay.
 */
export function ema(average: Tensor, values: Tensor, rate: Tensor): void {
  const n = average.rows * average.stride;
  if (n !== values.rows * values.stride || n % 4)
    throw new Error(`EMA of ${values.rows * values.stride} numbers in ${n}`);
  if (n > 0) launch(kernel('ema', source), [values, rate, average], [n / 4], grid(Math.ceil(n / 1024)));
}
