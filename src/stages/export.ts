import { existsSync, realpathSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { RunContext } from '../context.ts';
import { Interrupted, UsageError } from '../errors.ts';
import { checkOutputFile, checkOutputFolder } from '../files/atomic.ts';
import { isAdapterFolder, tokenizerFolder, withBases } from '../files/adapter.ts';
import { exportGguf } from '../files/gguf_export.ts';
import { holdsModel, openModel, writeModel, type ModelFolder } from '../files/model_folder.ts';
import { TOKENIZER_FILES } from '../files/reward_pad.ts';
import type { ExportSettings } from '../options.ts';

/** Writes a model as a GGUF file, or an adapter merged into its base as a model folder. */
export async function exportModel(settings: ExportSettings, context: RunContext): Promise<void> {
  const { model: dir, out, gguf, merge, overwrite } = settings;
  if (merge && !isAdapterFolder(dir!)) {
    throw new UsageError(`--merge: ${dir} is not a LoRA adapter`, 'an adapter folder has adapter_config.json and no model.safetensors');
  }
  if (!overwrite && (gguf ? existsSync(out!) : holdsModel(out!))) {
    throw new UsageError(`--out: ${out} exists already`, 'take another name, or --overwrite');
  }
  const target = gguf ? checkOutputFile(out!) : out!;
  if (merge) {
    checkOutputFolder(out!);
    for (const read of withBases(dir!)) {
      if (!existsSync(out!) || !existsSync(read) || realpathSync(out!) !== realpathSync(read)) continue;
      throw new UsageError(`--out: ${out} is the ${read === dir ? 'adapter' : 'base'} itself, which the merged model would replace`, 'choose another --out');
    }
  }
  const model = openModel(dir!);
  try {
    if (gguf) {
      const { progress, signal } = context;
      await exportGguf(model, tokenizerFolder(dir!), target, gguf as 'f32' | 'f16' | 'q8_0', (done, total) => {
        if (done === 1) progress.start('scales', { unit: 'layers', total });
        progress.update({ done });
        if (signal.aborted) throw new Interrupted();
      }, (line) => context.warn(line));
      progress.end();
    } else {
      await writeMerged(model, out!, settings.dtype);
    }
  } finally {
    model.close();
  }
  context.log(`${dir}: written to ${out}${gguf ? ` as ${gguf}` : ', merged'}`);
  await context.stdout.write(JSON.stringify({ command: 'export', out, ...(gguf ? { gguf } : { merged: dir }) }));
}

async function writeMerged(model: ModelFolder, out: string, dtype: string): Promise<void> {
  const { config, head, rewardBias, rewardGain, hfConfig, plan, dir } = model;
  await writeModel(out, {
    config,
    head,
    rewardBias,
    rewardGain,
    hfConfig,
    tokenizerFrom: await tokenizerFiles(dir),
    dtype: dtype === 'f16' ? 'F16' : 'F32',
    tensors: plan.map(({ name, shape }) => ({ name, shape, data: () => model.read(name) })),
  });
}

/** The tokenizer of a model or adapter and its generation_config.json, which may both be its base's. */
async function tokenizerFiles(dir: string): Promise<Record<string, Uint8Array>> {
  const folder = tokenizerFolder(dir);
  const paths = TOKENIZER_FILES.map((name) => join(folder, name)).filter((path) => existsSync(path));
  const generation = [...withBases(dir)].map((each) => join(each, 'generation_config.json')).find((path) => existsSync(path));
  if (generation !== undefined) paths.push(generation);
  return Object.fromEntries(await Promise.all(paths.map(async (path) => [basename(path), await readFile(path)] as const)));
}
