import { importOptions, type ImportSettings } from '../options.ts';
import { command } from './command.ts';

export const importGguf = command<ImportSettings>({
  name: 'import',
  summary: 'Make a Hugging Face folder from a GGUF file',
  options: importOptions,
  positional: { key: 'source', value: 'FILE', text: 'GGUF file.', required: true, exists: true },
  examples: ['rlhf import SmolLM2-135M-Instruct.Q4_1.gguf --out smollm2'],
  run: async (context, settings) => (await import('../stages/import.ts')).importModel(settings, context),
});
