import type { RunContext } from '../context.ts';
import { UsageError } from '../errors.ts';
import { adapterName, checkDevice, closeDevice, type Gpu } from '../gpu/device.ts';
import { startBackend } from '../gpu/backend.ts';
import { compilation } from '../gpu/kernel.ts';
import { deviceMemory } from '../gpu/memory.ts';
import { fileHash } from '../files/model_hashes.ts';
import { modelsRead, openRunFolder, type RunFolder } from '../run_folder.ts';
import { findMemory, megabytes, reservePlanned, type PassChoice } from './memory.ts';

/** Opens the device that the settings ask for; it is closed when the program ends. */
export async function openSession(settings: { device?: string; dtype?: string }, context: RunContext): Promise<Gpu> {
  const opened = await startBackend({ adapter: settings.device, warn: (line) => context.log(line) });
  context.onExit(() => closeDevice());
  if (settings.dtype === 'f16' && !opened.features.has('shader-f16')) {
    throw new UsageError(`--dtype f16: ${adapterName(opened.info)} has no shader-f16`, 'leave --dtype away: f32');
  }
  return opened;
}

/** The same for training: finds out how much memory there is where --memory does not say. */
export async function openTraining(settings: { device?: string; dtype?: string; memory?: number }, context: RunContext): Promise<Gpu> {
  const opened = await openSession(settings, context);
  if (settings.memory === undefined) await findMemory();
  return opened;
}

/** What a training command is about to do, shown before it starts and recorded in rlhf.json. */
export interface Cost {
  rows: number;
  tokens: number;
  steps: number;
  parameters: number;
  /** How the passes are cut, and the device memory that the run will take, estimated, in bytes. */
  passes: PassChoice;
}

/**
 * Opens the run's folder, unless this is a dry run: then the resolved settings and the cost are printed and nothing else
 * happens. Returns undefined where there is nothing (more) to do.
 */
export async function beginRun(settings: { out: string; resume: boolean; overwrite: boolean; dryRun: boolean; warmup: number;
  evalEvery: number; evalData?: string[]; chatTemplate?: string; memory?: number },
  context: RunContext, opened: Gpu, cost: Cost, data: Record<string, string>): Promise<RunFolder | undefined> {
  const adapter = adapterName(opened.info);
  const { passes, ...counts } = cost;
  const shown = { ...counts, memory_estimated_bytes: passes.bytes, memory_minimum_bytes: passes.minimum, micro_batch_tokens: passes.microBatchTokens,
    recompute: passes.recompute };
  context.log(`${count(cost.rows)} rows, ${count(cost.tokens)} tokens, ${count(cost.steps)} steps, ${count(cost.parameters)} parameters, `
    + `about ${megabytes(passes.bytes)} on ${adapter}`);
  if (settings.memory !== undefined && passes.bytes > settings.memory) {
    context.warn(`--memory ${megabytes(settings.memory)}: the passes that were asked for, or that the resumed run had, take about ${megabytes(passes.bytes)}`);
  }
  if (settings.warmup >= cost.steps) {
    context.warn(`--warmup ${settings.warmup}: all of the ${count(cost.steps)} steps are warm-up, in which the rate stays below --lr`);
  }
  if (settings.evalEvery > 0 && !settings.evalData) {
    context.warn(`--eval-every ${settings.evalEvery}: nothing is evaluated${context.command === 'ppo' ? ' in PPO' : ' without --eval-data'}`);
  }
  if (settings.dryRun) {
    await context.stdout.write(JSON.stringify({ command: context.command, ...shown, adapter }));
    return undefined;
  }
  const folder = await openRunFolder({ kind: context.command, settings, argv: context.argv });
  if (folder.state === 'complete') {
    context.log(`${settings.out}: already complete`);
    await context.stdout.write(JSON.stringify({ out: settings.out, complete: true, message: 'already complete' }));
    folder.close();
    return undefined;
  }
  context.onExit(() => {
    if (folder.close()) context.warn(`${settings.out}: the new run came to nothing, the older one is back in its place`);
  });
  reservePlanned(passes);
  const template = settings.chatTemplate === undefined ? {} : { [settings.chatTemplate]: await fileHash(settings.chatTemplate) };
  await folder.noteInputs({ ...data, ...template }, await modelsRead(settings));
  await folder.note({ adapter: { name: adapter, vendor: opened.info.vendor, architecture: opened.info.architecture },
    micro_batch_tokens: passes.microBatchTokens, recompute: passes.recompute, cost: shown });
  return folder;
}

/**
 * What is said of memory at a run's end and kept in rlhf.json, in bytes: planned, what could not be done without, and the most that
 * was allocated; of that the textures in which a software driver keeps copies of operands.
 */
export const memoryReport = ({ bytes, minimum }: PassChoice) => ({
  memory_estimated_bytes: bytes,
  memory_minimum_bytes: minimum,
  memory_peak_bytes: deviceMemory().peak,
  memory_texture_bytes: deviceMemory().textures,
});

/** Says once that pipelines are being compiled, which the first step of a new machine waits for; then checks the device. */
export function compileProgress(context: RunContext): () => void {
  let told = false;
  return () => {
    checkDevice();
    const { pending } = compilation();
    if (!told && pending > 0) context.log(`compiling ${pending} kernels`);
    told = true;
  };
}

const count = (n: number): string => n.toLocaleString('en-US');
