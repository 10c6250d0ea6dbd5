import type { RunContext } from '../context.ts';
import { UsageError } from '../errors.ts';
import { checkOutputFolder } from '../files/atomic.ts';
import { importGguf } from '../files/gguf_import.ts';
import { holdsModel } from '../files/model_folder.ts';
import { parameterCount } from '../model/config.ts';
import type { ImportSettings } from '../options.ts';

/** Makes a Hugging Face folder of a GGUF file: dequantised weights, config, tokenizer and chat template. */
export async function importModel(settings: ImportSettings, context: RunContext): Promise<void> {
  const { source, out, overwrite, dtype } = settings;
  checkOutputFolder(out!);
  if (holdsModel(out!) && !overwrite) {
    throw new UsageError(`--out: ${out} holds a model already`, 'take another folder, or --overwrite');
  }
  const config = await importGguf(source, out!, dtype === 'f16' ? 'F16' : 'F32');
  const parameters = parameterCount(config, 'lm');
  context.log(`${source}: ${config.family}, ${parameters.toLocaleString('en-US')} parameters, written to ${out}`);
  await context.stdout.write(JSON.stringify({ command: 'import', out, family: config.family, parameters }));
}
