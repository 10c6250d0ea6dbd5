import type { RunContext } from '../context.ts';
import { loadTokenizer } from '../model/load.ts';
import type { EvalSettings } from '../options.ts';
import { openSession } from '../train/session.ts';
import { evaluateChoices } from './eval_choices.ts';
import { evaluatePerplexity } from './eval_perplexity.ts';
import { evaluatePolicy } from './eval_policy.ts';
import { tableLines } from './eval_report.ts';
import { evaluateRewardModel } from './eval_reward_model.ts';

const KINDS = {
  rm: evaluateRewardModel,
  perplexity: evaluatePerplexity,
  policy: evaluatePolicy,
  'multiple-choice': evaluateChoices,
};

/** Prints a report as one JSON object on standard output, and as a table on standard error. */
export async function evaluate(settings: EvalSettings, context: RunContext): Promise<void> {
  const tokenizer = await loadTokenizer(settings.model!, settings.chatTemplate);
  await openSession(settings, context);
  const report = await KINDS[settings.kind](settings, tokenizer, context);
  if (!settings.dryRun) for (const line of tableLines(report)) context.log(line);
  await context.stdout.write(JSON.stringify({ command: `eval ${settings.kind}`, model: settings.model, ...report }));
}
