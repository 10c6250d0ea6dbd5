import type { RunContext } from '../context.ts';
import { collectRows } from '../data/collect.ts';
import { encodeDemonstration } from '../data/encode.ts';
import type { JsonObject } from '../data/jsonl.ts';
import { packAll } from '../data/pack.ts';
import { asDemonstration, asText, type Demonstration } from '../data/rows.ts';
import { UsageError } from '../errors.ts';
import { loadModel } from '../model/load.ts';
import type { EvalSettings } from '../options.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { ratio } from '../train/bootstrap.ts';
import { inGroups, measured, rowPolicy, type Report } from './eval_report.ts';
import { LogprobReader } from './judge.ts';

/** Tokens that attend to one another, of which those after the first count, or those with mask 1. */
interface Part { ids: ArrayLike<number>; mask?: Uint8Array }

/** The first token of a part that may count. */
const firstOf = ({ mask }: Part): number => Math.max(1, mask?.indexOf(1) ?? 1);

/**
 * Mean negative log-likelihood a token, and its exponential: of text packed into rows of context length, as in pretraining,
 * or of demonstrations' response tokens; intervals over rows.
 */
export async function evaluatePerplexity(settings: EvalSettings, tokenizer: Tokenizer, context: RunContext): Promise<Report> {
  const model = loadModel(settings.model!, { dtype: settings.dtype, kind: 'lm' });
  const length = { context: model.config.context, truncate: settings.truncate };
  const texts: Int32Array[] = [];
  const rows: Part[][] = [];
  await collectRows(settings.data, (value) => {
    const row = textOrDemonstration(value);
    if (row.kind === 'text') texts.push(encodeDemonstration(tokenizer, row).ids);
    else rows.push([encodeDemonstration(tokenizer, row, length)]);
    return true;
  }, { ...rowPolicy(settings, context), plainText: true });
  for (const { ids, segments } of packAll(texts, model.config.context)) {
    rows.push(segments.map(([start, n]) => ({ ids: ids.subarray(start, start + n) })));
  }
  if (!rows.some((parts) => parts.some(({ ids, mask }) => (mask ? mask.includes(1, 1) : ids.length > 1)))) {
    throw new UsageError(`${settings.data.join(', ')}: no token follows another, so there is nothing to predict`);
  }
  if (settings.dryRun) return { rows: rows.length, parameters: model.weights.count };

  const reader = LogprobReader.within(settings.memory, model);
  const losses: number[] = [];
  const tokens: number[] = [];
  await inGroups('eval perplexity', rows, settings, context, async (group) => {
    const found = await reader.logprobs(group.flat().map((part) => ({ ids: part.ids, from: firstOf(part) })));
    let next = 0;
    for (const parts of group) {
      let [loss, count] = [0, 0];
      for (const part of parts) {
        const from = firstOf(part);
        found[next++].forEach((logp, i) => {
          if (part.mask && !part.mask[from + i]) return;
          loss -= logp;
          count++;
        });
      }
      losses.push(loss);
      tokens.push(count);
    }
  });
  const loss = ratio(losses, tokens);
  return {
    rows: rows.length,
    ...(texts.length > 0 ? { documents: texts.length } : {}), // packed into rows
    tokens: tokens.reduce((sum, n) => sum + n, 0),
    ...measured(rows.length, { loss, perplexity: (units) => Math.exp(loss(units)) }, settings),
  };
}

/** A row with none of a demonstration's fields is told to lack "text", what most have here. */
function textOrDemonstration(value: JsonObject): Demonstration {
  const demonstration = ['prompt', 'completion', 'messages', 'instruction'].some((name) => name in value);
  return demonstration ? asDemonstration(value) : { kind: 'text', text: asText(value) };
}
