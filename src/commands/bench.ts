import { benchOptions, type BenchSettings } from '../options.ts';
import { command } from './command.ts';

export const bench = command<BenchSettings>({
  name: 'bench',
  summary: 'Measure kernels, training and sampling',
  options: benchOptions,
  positional: { key: 'names', value: 'NAME', text: 'Benchmarks to run; all without a name. Kernels take sizes, as gemm_nn:1000x300x200.', many: true },
  examples: ['rlhf bench train_step', 'rlhf bench gemm_nn sample --steps 20 > bench.jsonl', 'rlhf bench gemm:1000x300x200 attention_forward:2x2048x9x64x3 tfjs:1000x300x200'],
  run: async (context, settings) => (await import('../stages/bench.ts')).bench(settings, context),
});
