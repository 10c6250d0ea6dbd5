import { UsageError } from '../errors.ts';
import { labelOptions, type LabelSettings } from '../options.ts';
import { command } from './command.ts';
import { dataWords } from './data_words.ts';

export const label = command<LabelSettings>({
  name: 'label',
  summary: 'People rank answers, in the browser or the terminal',
  options: labelOptions,
  positional: dataWords,
  input: 'data',
  examples: [
    'rlhf label answers.jsonl --out rankings.jsonl --labeler ann',
    'rlhf label --agreement ann.jsonl ben.jsonl',
  ],
  complete: (settings) => {
    const { agreement, out, terminal, data } = settings;
    if (!agreement && out === undefined)
      throw new UsageError('label needs --out', 'the file that the rankings are appended to');
    if (agreement && out !== undefined) throw new UsageError('--out: --agreement only prints, it writes no file');
    if (terminal && !agreement && data.includes('-')) {
      throw new UsageError(
        '--terminal cannot be used with rows on standard input',
        'name a file: rlhf label answers.jsonl --terminal',
      );
    }
  },
  run: async (context, settings) => (await import('../stages/label.ts')).label(settings, context),
});
