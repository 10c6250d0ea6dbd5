import { existsSync, mkdirSync, readdirSync, renameSync, rmdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { removeWhole } from './files/atomic.ts';
import { FolderLock } from './files/lock.ts';
import { isModelFile, isWeightsFile } from './files/model_files.ts';

/** Of a model's weights, what is put in place last. */
const WHOLE = ['model.safetensors', 'model.safetensors.index.json', 'adapter_model.safetensors'];
export const ownFolders = ['checkpoints', 'rollouts', 'raw', 'value'];
export const isOwn = (name: string): boolean =>
  name === 'rlhf.json' || name === 'metrics.jsonl' || ownFolders.includes(name) || isModelFile(name);

/** Where --overwrite keeps the older run until the new one has a checkpoint or its model; under the second name while it moves. */
export const REPLACED = 'replaced-run';
export const MOVING = 'replaced-run.moving';
/** What a run wrote that failed before it had either, once the older one is back. */
const FAILED = 'failed-run';

/** Whether a folder holds a model, and checkpoints. */
export function contents(path: string): { model: boolean; checkpoints: boolean } {
  const names = readdirSync(path);
  const checkpoints = join(path, 'checkpoints');
  const inside = existsSync(checkpoints) && statSync(checkpoints).isDirectory() ? readdirSync(checkpoints) : [];
  return {
    model: names.some((name) => name === 'config.json' || name.startsWith('adapter_') || isWeightsFile(name)),
    checkpoints: inside.some((name) => !name.startsWith('.') && !/\.tmp-/.test(name)),
  };
}

/** Whether a run has something to show: a checkpoint, or weights, of which the last come last. */
export const hasResult = (path: string): boolean => contents(path).checkpoints || WHOLE.some((name) => existsSync(join(path, name)));

/** Moves what runs write, and nothing else, aside: the folder may hold other files. Killed in between, all comes back. */
export function setAside(path: string): void {
  removeWhole(join(path, REPLACED));
  moveOwn(path, MOVING);
  renameSync(join(path, MOVING), join(path, REPLACED));
}

function moveOwn(path: string, into: string): void {
  mkdirSync(join(path, into));
  for (const name of readdirSync(path).filter(isOwn)) renameSync(join(path, name), join(path, into, name));
}

/** Removes the run that was set aside, and what a failed attempt to replace it left. */
export function dropReplaced(path: string): void {
  if (!existsSync(join(path, REPLACED))) return;
  removeWhole(join(path, REPLACED));
  removeWhole(join(path, FAILED));
}

/** Removes what a run that has nothing to show left, its record last; in a folder without a record, nothing. */
export function removeFailed(path: string): void {
  if (!existsSync(join(path, 'rlhf.json'))) return;
  for (const name of readdirSync(path).filter((each) => isOwn(each) && each !== 'rlhf.json')) {
    // Somebody's own folder of such a name is no model.
    if (['raw', 'value'].includes(name) && !existsSync(join(path, name, 'config.json'))) continue;
    rmSync(join(path, name), { recursive: true });
  }
  rmSync(join(path, 'rlhf.json'));
}

/**
 * Puts the older run back where there is one and the new one has nothing to show; what that wrote stays in failed-run/ where it has metrics.
 * Returns whether it did.
 */
export function putBack(path: string): boolean {
  if (!existsSync(join(path, REPLACED)) || hasResult(path)) return false;
  removeWhole(join(path, FAILED));
  moveOwn(path, FAILED);
  if ((statSync(join(path, FAILED, 'metrics.jsonl'), { throwIfNoEntry: false })?.size ?? 0) === 0) removeWhole(join(path, FAILED));
  renameSync(join(path, REPLACED), join(path, MOVING));
  finishPuttingBack(path);
  return true;
}

/** A run that was killed has left an older one half moved. */
export async function putBackLocked(path: string): Promise<void> {
  const lock = await FolderLock.take(path);
  try {
    finishPuttingBack(path);
  } finally {
    lock.release();
  }
}

export function finishPuttingBack(path: string): void {
  const moving = join(path, MOVING);
  for (const name of readdirSync(moving)) renameSync(join(moving, name), join(path, name));
  rmdirSync(moving);
}
