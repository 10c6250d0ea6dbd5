import { UsageError } from '../errors.ts';
import { evalOptions, type EvalSettings } from '../options.ts';
import { command } from './command.ts';
import { checkRows } from './row_rules.ts';

export const evaluate = command<EvalSettings>({
  name: 'eval',
  summary: 'Report on a reward model, a policy, perplexity or multiple choice',
  options: evalOptions,
  positional: {
    key: 'kind',
    value: 'KIND',
    text: 'What to evaluate.',
    required: true,
    choices: ['rm', 'policy', 'perplexity', 'multiple-choice'],
  },
  input: 'data',
  examples: [
    'rlhf eval rm --model rm --data held-out-rankings.jsonl',
    'rlhf eval policy --model policy --baseline sft --reward rm --data prompts.jsonl',
    'rlhf eval perplexity --model policy --data text.jsonl',
  ],
  complete: (settings) => {
    checkRows(settings);
    const { kind, baseline, reward } = settings;
    if (kind !== 'policy' && baseline !== undefined) throw new UsageError(`--baseline: eval ${kind} has no use for it`);
    if (kind !== 'policy' && reward !== undefined) throw new UsageError(`--reward: eval ${kind} has no use for it`);
  },
  run: async (context, settings) => (await import('../stages/eval.ts')).evaluate(settings, context),
});
