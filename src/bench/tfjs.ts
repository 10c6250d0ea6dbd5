import { flush, tf } from '../gpu/backend.ts';
import type { Mode } from '../gpu/ops/matmul.ts';
import { stage, vector } from '../gpu/tensor.ts';
import type { BenchCase } from './measure.ts';

/** A product of `gemm_…` by tfjs's own kernels, on the same device: what ours are measured against. Run when named. */
export function stockGemm(mode: Mode, [M, N, K]: readonly number[]): BenchCase {
  return {
    name: `tfjs_${mode}`,
    shape: { M, N, K },
    named: true,
    async prepare() {
      const [transposeA, transposeB] = [mode === 'tn', mode === 'nt'];
      const a = tf.randomUniform<tf.Rank.R2>(transposeA ? [K, M] : [M, K], -0.5, 0.5, 'float32', 1);
      const b = tf.randomUniform<tf.Rank.R2>(transposeB ? [N, K] : [K, N], -0.5, 0.5, 'float32', 2);
      const flops = 2 * M * N * K;
      const done = vector(1);
      return {
        flops,
        bytes: 4 * (M * K + N * K + M * N),
        repeatable: true,
        async run(times = 1) {
          for (let i = 0; i < times; i++) tf.dispose(tf.matMul(a, b, transposeA, transposeB));
          flush();
          await stage(done).read();
        },
        dispose() {
          tf.dispose([a, b]);
          done.buffer.destroy();
        },
      };
    },
  };
}
