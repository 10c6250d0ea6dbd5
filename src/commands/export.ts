import { UsageError } from '../errors.ts';
import { exportOptions, type ExportSettings } from '../options.ts';
import { command } from './command.ts';

export const exportModel = command<ExportSettings>({
  name: 'export',
  summary: 'Write a model as GGUF, or merge its LoRA adapter',
  options: exportOptions,
  positional: { key: 'model', value: 'DIR', text: 'Model, like --model.', exists: true, option: true },
  examples: ['rlhf export policy --gguf q8_0 --out policy.gguf', 'rlhf export adapter --merge --out merged'],
  complete: (settings) => {
    if (settings.gguf === undefined && !settings.merge) throw new UsageError('export needs --gguf or --merge');
  },
  run: async (context, settings) => (await import('../stages/export.ts')).exportModel(settings, context),
});
