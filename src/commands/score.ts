import { scoreOptions, type ScoreSettings } from '../options.ts';
import { command } from './command.ts';
import { dataWords } from './data_words.ts';
import { checkRows } from './row_rules.ts';

export const score = command<ScoreSettings>({
  name: 'score',
  summary: 'Rewards of completions',
  options: scoreOptions,
  positional: dataWords,
  input: 'data',
  examples: ['rlhf sample --model policy < prompts.jsonl | rlhf score --model rm | jq .reward'],
  complete: checkRows,
  run: async (context, settings) => (await import('../stages/score.ts')).score(settings, context),
});
