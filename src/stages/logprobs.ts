import type { RunContext } from '../context.ts';
import { withFields } from '../data/output_row.ts';
import { Interrupted } from '../errors.ts';
import { turn } from '../gpu/software_driver.ts';
import { loadModel, loadTokenizer } from '../model/load.ts';
import type { LogprobsSettings } from '../options.ts';
import { openSession } from '../train/session.ts';
import { LogprobReader, readCompletions } from './judge.ts';

/** Writes the log-probability of each response token, EOS included, and their sum. */
export async function logprobs(settings: LogprobsSettings, context: RunContext): Promise<void> {
  const tokenizer = await loadTokenizer(settings.model!, settings.chatTemplate);
  await openSession(settings, context);
  const model = loadModel(settings.model!, { dtype: settings.dtype, kind: 'lm' });
  if (settings.dryRun) {
    await context.stdout.write(JSON.stringify({ command: 'logprobs', settings, parameters: model.weights.count }));
    return;
  }
  const reader = LogprobReader.within(settings.memory, model);
  context.progress.start('logprobs', { unit: 'rows' });
  let done = 0;
  for await (const group of readCompletions(settings, tokenizer, model, context)) {
    const all = await reader.logprobs(group.flatMap(({ ids, promptIds }) => ids.map((row) => ({ ids: row, from: promptIds.length }))));
    let at = 0;
    for (const { row, item, ids, promptIds } of group) {
      const found = all.slice(at, (at += ids.length)).map((values) => [...values]);
      const tokens = ids.map((r) => [...r.slice(promptIds.length)]);
      const sums = found.map((values) => values.reduce((sum, x) => sum + x, 0));
      const one = item.single;
      await context.stdout.write(withFields(row, {
        prompt_tokens: [...promptIds],
        tokens: one ? tokens[0] : tokens,
        logprobs: one ? found[0] : found,
        sum: one ? sums[0] : sums,
      }));
    }
    context.progress.update({ done: (done += group.length) });
    if (context.signal.aborted) throw new Interrupted();
    await turn();
  }
  context.progress.end();
}
