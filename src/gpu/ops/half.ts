import source from '../../../kernels/half.wgsl';
import { kernel } from '../kernel.ts';
import { launch } from '../program.ts';
import { Tensor } from '../tensor.ts';
import { grid } from './reduction.ts';

/** `half` ← the first numbers of `values`, as the nearest f16, bit for bit as `upload` converts them. A multiple of 4. */
export function narrow(values: Tensor, half: Tensor): void {
  const n = half.rows * half.stride;
  if (n % 4 || n > values.rows * values.stride) throw new Error(`${n} f16 numbers of ${values.rows * values.stride}`);
  if (n === 0) return;
  const bits = new Tensor(half.buffer, n / 2, 1, 1, half.offset);
  launch(kernel('half', source), [values, bits], [n / 4], grid(Math.ceil(n / 1024)));
}
