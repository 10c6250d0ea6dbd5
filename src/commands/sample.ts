import { sampleOptions, type SampleSettings } from '../options.ts';
import { command } from './command.ts';
import { checkRows } from './row_rules.ts';
import { dataWords } from './data_words.ts';

export const sample = command<SampleSettings>({
  name: 'sample',
  summary: 'Answer prompts, K times each',
  options: sampleOptions,
  positional: dataWords,
  input: 'data',
  examples: [
    'rlhf sample --model sft --k 4 < prompts.jsonl > answers.jsonl',
    'rlhf sample --model policy --greedy < prompts.jsonl | head -n 3',
  ],
  complete: checkRows,
  run: async (context, settings) => (await import('../stages/sample.ts')).sample(settings, context),
});
