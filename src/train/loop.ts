import type { RunContext } from '../context.ts';
import { Interrupted, RunError } from '../errors.ts';
import { turn } from '../gpu/software_driver.ts';
import type { Staged } from '../gpu/tensor.ts';
import type { Passes } from '../model/passes.ts';
import type { RunFolder } from '../run_folder.ts';
import { lastCheckpoint, restoreCheckpoint, saveCheckpoint, type Part } from './checkpoint.ts';

type Numbers = Record<string, unknown>;

/** A training run as a sequence of steps of which each is recorded on the device and read back once. */
export interface StepTask {
  /** Steps of the whole run; schedules span them even where the run stops early. */
  totalSteps: number;
  /** Submits a 0-based step's work and returns what is to be read when it is done. */
  submit(step: number): Promise<Staged>;
  /** The step's metrics from what was read. */
  metrics(step: number, values: Float32Array[]): Numbers & { loss: number };
  /** Is told when `done` steps are done; may evaluate, and returns metrics to add to the last step's. */
  evaluate?(done: number): Promise<Numbers | undefined>;
  /** The run's state: tensors, what its passes have run over, and what else a checkpoint must hold. */
  parts: Part[];
  passes: readonly Counted[];
  state?(): Numbers;
  restore?(state: Numbers): void;
}

export interface LoopSettings {
  maxSteps?: number;
  saveEvery: number;
}

/**
 * Runs a task's steps from the last checkpoint on, a step ahead of what is read back; writes metrics, checkpoints, and on
 * Ctrl-C a last checkpoint before it throws Interrupted. Returns the number of steps done.
 * Throws RunError where a loss or gradient is not finite; the last checkpoint stays.
 */
export async function runSteps(label: string, task: StepTask, folder: RunFolder, settings: LoopSettings, context: RunContext): Promise<number> {
  const start = resume(task, folder, task.restore);
  const end = lastStep(start, task.totalSteps, settings, context);
  let lastRead = performance.now();
  const { progress } = context;
  progress.start(label, { total: end, unit: 'steps', from: start });

  const finish = async ({ step, staged, started }: { step: number; staged: Staged; started: number }, extra?: Numbers): Promise<void> => {
    const begin = Math.max(started, lastRead);
    const values = await staged.read();
    lastRead = performance.now();
    const metrics = task.metrics(step, values.map((v) => new Float32Array(v)));
    await checkFinite(step, metrics, task.parts);
    folder.metrics.append({ step: step + 1, ...metrics, ...extra, seconds: Number(((lastRead - begin) / 1000).toFixed(3)) });
    progress.update({ done: step + 1, fields: { loss: metrics.loss.toFixed(4) } });
  };

  let pending: { step: number; staged: Staged; started: number } | undefined;
  for (let step = start; step < end; step++) {
    const started = performance.now();
    const staged = await task.submit(step);
    if (pending) await finish(pending);
    pending = { step, staged, started };
    const done = step + 1;
    const extra = await task.evaluate?.(done);
    const stopped = context.signal.aborted;
    const save = stopped || done === end && done < task.totalSteps || settings.saveEvery > 0 && done % settings.saveEvery === 0;
    if (extra || save || done === end) {
      await finish(pending, extra);
      pending = undefined;
    }
    if (save) await checkpoint(task, folder, done, task.state?.(), stopped);
    if (stopped && done < end) {
      progress.end();
      throw new Interrupted(`stopped after step ${done}: go on with --resume`);
    }
    // Signals arrive between turns of the event loop.
    await turn();
  }
  progress.end();
  return end;
}

/**
 * Does what follows the last of `step` steps (scoring, writing the model). Where that fails or is interrupted and no checkpoint holds that step, one is
 * saved first, if that can be done: --resume then goes on from there. Throws what `work` throws, of Interrupted one that says so.
 */
export async function afterSteps(kept: Kept, folder: RunFolder, step: number, more: Record<string, unknown> | undefined, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    await checkpointOnce(kept, folder, step, more).catch(() => undefined);
    throw error instanceof Interrupted ? new Interrupted('stopped after the last step: go on with --resume') : error;
  }
}

/** The step after which this part of a run ends: not before what is done already. */
export function lastStep(start: number, totalSteps: number, { maxSteps }: { maxSteps?: number }, context: RunContext): number {
  const end = Math.min(totalSteps, maxSteps ?? Infinity);
  if (maxSteps !== undefined && start > maxSteps) context.log(`${start} steps are done already, more than --max-steps ${maxSteps}: nothing is trained`);
  return Math.max(start, end);
}

/** Passes that count what they have run over. */
type Counted = Pick<Passes, 'ran'>;

/** What of a run a checkpoint holds. */
export interface Kept {
  parts: readonly Part[];
  passes: readonly Counted[];
}

/** Saves a run's state as it is after `step` steps. An older run that it replaces stays where this one is `stopped`, until it goes on. */
export async function checkpoint({ parts, passes }: Kept, folder: RunFolder, step: number, more: Record<string, unknown> = {},
  stopped = false): Promise<void> {
  folder.metrics.sync();
  await saveCheckpoint(folder.checkpoints, parts, { step, ...more, ran: passes.map(({ ran }) => ran) });
  if (!stopped) folder.dropReplaced();
}

/** Saves the state of a run that stops here, unless its last checkpoint is of this step. */
export async function checkpointOnce(kept: Kept, folder: RunFolder, step: number, more?: Record<string, unknown>): Promise<void> {
  if (lastCheckpoint(folder.checkpoints)?.state.step !== step) await checkpoint(kept, folder, step, more, true);
}

/** Puts the last checkpoint's state back and cuts the metrics to it; returns the steps done (0 without a checkpoint). */
export function resume({ parts, passes }: Kept, folder: RunFolder, use?: (state: Record<string, unknown>) => void): number {
  const last = folder.state === 'resumable' ? lastCheckpoint(folder.checkpoints) : undefined;
  folder.metrics.cutBack(last?.state.step ?? 0);
  if (!last) return 0;
  restoreCheckpoint(last.path, parts);
  const ran = last.state.ran as Counted['ran'][] | undefined; // checkpoints of older versions have none
  passes.forEach((each, i) => Object.assign(each.ran, ran?.[i]));
  use?.(last.state);
  return last.state.step;
}

/** Stops the run where a metric that must be finite is not; names the first tensor of the run's state that is not either. */
export async function checkFinite(step: number, metrics: Numbers, parts: readonly Part[]): Promise<void> {
  for (const [name, value] of Object.entries(metrics)) {
    if (typeof value !== 'number' || Number.isFinite(value)) continue;
    let tensor = '';
    for (const { name: part, weights, flats } of parts) {
      const broken = await weights.broken(flats);
      if (!broken) continue;
      tensor = `; ${broken} of ${part} is not finite`;
      break;
    }
    throw new RunError(`step ${step + 1}: ${name} is ${value}${tensor}`,
      'lower --lr, or look at the rows of this step; the last checkpoint is untouched');
  }
}
