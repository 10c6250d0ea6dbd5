import type { RunContext } from '../context.ts';
import { collectRows, RowError } from '../data/collect.ts';
import { encodeCompletions, encodePrompt } from '../data/encode.ts';
import type { JsonObject } from '../data/jsonl.ts';
import { asPrompt } from '../data/rows.ts';
import { loadModel } from '../model/load.ts';
import type { EvalSettings } from '../options.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { ratio } from '../train/bootstrap.ts';
import { inGroups, measured, rowPolicy, type Report } from './eval_report.ts';
import { LogprobReader } from './judge.ts';

/** A question: its choices as token rows (prompt and choice, without EOS) and the right one's number. */
interface Question { promptLength: number; rows: Int32Array[]; bytes: number[]; answer: number }

/**
 * Accuracy of taking the choice of the highest log-probability after the prompt: their sum, their mean a token, and their
 * sum over the bytes of the choice's text. Choices are tokenised by themselves: a leading space belongs to the choice.
 */
export async function evaluateChoices(settings: EvalSettings, tokenizer: Tokenizer, context: RunContext): Promise<Report> {
  const model = loadModel(settings.model!, { dtype: settings.dtype, kind: 'lm' });
  const length = { context: model.config.context, truncate: settings.truncate };
  const { rows: questions } = await collectRows(settings.data, (value): Question => {
    const { choices, answer } = choicesOf(value);
    const { promptIds, ids } = encodeCompletions(tokenizer, encodePrompt(tokenizer, asPrompt(value)), choices, choices.map(() => 'length'), length);
    return {
      promptLength: promptIds.length,
      rows: ids,
      bytes: choices.map((text) => Buffer.byteLength(text)),
      answer,
    };
  }, rowPolicy(settings, context));
  if (settings.dryRun) return { rows: questions.length, parameters: model.weights.count };

  const reader = LogprobReader.within(settings.memory, model);
  const right: Record<'sum' | 'token' | 'byte', number[]> = { sum: [], token: [], byte: [] };
  await inGroups('eval multiple-choice', questions, settings, context, async (group) => {
    const found = await reader.logprobs(group.flatMap(({ rows, promptLength }) => rows.map((ids) => ({ ids, from: promptLength }))));
    let next = 0;
    for (const { rows, bytes, answer } of group) {
      const lists = found.slice(next, (next += rows.length));
      const sums = lists.map((list) => list.reduce((sum, x) => sum + x, 0));
      const correct = (values: readonly number[]): number => Number(values.indexOf(Math.max(...values)) === answer);
      right.sum.push(correct(sums));
      right.token.push(correct(sums.map((sum, i) => sum / lists[i].length)));
      right.byte.push(correct(sums.map((sum, i) => sum / bytes[i])));
    }
  });
  return {
    rows: questions.length,
    chance: questions.reduce((sum, { rows }) => sum + 1 / rows.length, 0) / questions.length,
    ...measured(questions.length, {
      accuracy: ratio(right.sum),
      accuracy_per_token: ratio(right.token),
      accuracy_per_byte: ratio(right.byte),
    }, settings),
  };
}

function choicesOf({ choices, answer }: JsonObject): { choices: string[]; answer: number } {
  if (!Array.isArray(choices) || choices.length < 2) throw new RowError('"choices" must be a list of two or more texts');
  const bad = choices.findIndex((choice) => typeof choice !== 'string' || choice === '');
  if (bad >= 0) throw new RowError(`"choices[${bad}]" must be a text that is not empty`);
  if (!Number.isInteger(answer) || (answer as number) < 0 || (answer as number) >= choices.length) {
    throw new RowError(`"answer" must be the number of a choice, from 0 to ${choices.length - 1}`);
  }
  return { choices: choices as string[], answer: answer as number };
}
