import { benchOptions, type BenchSettings } from '../options.ts';
import { command } from './command.ts';

export const bench = command<BenchSettings>({
  name: 'bench',
  summary: 'Measure kernels, training and sampling',
  options: benchOptions,
  positional: { key: 'names', value: 'NAME', text: 'Benchmarks to run; all without a name.', many: true },
  examples: ['rlhf bench train_step', 'rlhf bench gemm_nn sample --steps 20 > bench.jsonl'],
  run: async (context, settings) => (await import('../stages/bench.ts')).bench(settings, context),
});
