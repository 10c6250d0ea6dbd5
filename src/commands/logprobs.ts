import { logprobsOptions, type LogprobsSettings } from '../options.ts';
import { command } from './command.ts';
import { dataWords } from './data_words.ts';
import { checkRows } from './row_rules.ts';

export const logprobs = command<LogprobsSettings>({
  name: 'logprobs',
  summary: 'Log-probabilities of completions',
  options: logprobsOptions,
  positional: dataWords,
  input: 'data',
  examples: ['rlhf logprobs --model sft < answers.jsonl | jq .sum'],
  complete: checkRows,
  run: async (context, settings) => (await import('../stages/logprobs.ts')).logprobs(settings, context),
});
