import type { RunContext } from '../context.ts';
import { withFields } from '../data/output_row.ts';
import { Interrupted } from '../errors.ts';
import { turn } from '../gpu/software_driver.ts';
import { loadModel, loadTokenizer } from '../model/load.ts';
import type { ScoreSettings } from '../options.ts';
import { openSession } from '../train/session.ts';
import { readCompletions, Scorer } from './judge.ts';

/** Writes the reward of each completion: r = gain·(w·h) + bias, read at the row's last token. */
export async function score(settings: ScoreSettings, context: RunContext): Promise<void> {
  const tokenizer = await loadTokenizer(settings.model!, settings.chatTemplate);
  await openSession(settings, context);
  const model = loadModel(settings.model!, { dtype: settings.dtype, kind: 'reward' });
  if (settings.dryRun) {
    await context.stdout.write(JSON.stringify({ command: 'score', settings, parameters: model.weights.count }));
    return;
  }
  const scorer = Scorer.within(settings.memory, model);
  context.progress.start('score', { unit: 'rows' });
  let done = 0;
  for await (const group of readCompletions(settings, tokenizer, model, context)) {
    const scores = await scorer.scores(group.flatMap((g) => g.ids));
    let at = 0;
    for (const { row, item, ids } of group) {
      const rewards = scores.slice(at, (at += ids.length));
      await context.stdout.write(withFields(row, item.single ? { reward: rewards[0], rewards: undefined } : { rewards, reward: undefined }));
    }
    context.progress.update({ done: (done += group.length) });
    if (context.signal.aborted) throw new Interrupted();
    await turn();
  }
  context.progress.end();
}
