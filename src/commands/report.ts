import { reportOptions, type ReportSettings } from '../options.ts';
import { command } from './command.ts';

export const report = command<ReportSettings>({
  name: 'report',
  summary: 'One HTML page with curves, samples and tables from run folders',
  options: reportOptions,
  positional: { key: 'runs', value: 'RUN', text: 'Run folders.', many: true, required: true, exists: true },
  examples: ['rlhf report sft rm policy --out report.html'],
  run: async (context, settings) => (await import('../stages/report.ts')).report(settings, context),
});
