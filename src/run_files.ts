import { existsSync, mkdirSync, readdirSync, renameSync, rmdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { removeWhole } from './files/atomic.ts';
import { FolderLock } from './files/lock.ts';

/** What makes a folder one that must not be written over unasked. */
const modelFiles = [
  'config.json',
  'model.safetensors',
  'model.safetensors.index.json',
  'adapter_config.json',
  'adapter_model.safetensors',
  'tokenizer.json',
  'tokenizer_config.json',
  'generation_config.json',
  'special_tokens_map.json',
  'chat_template.jinja',
];
const isWeights = (name: string): boolean => /^(model|adapter_model)(-\d{5}-of-\d{5})?\.safetensors$/.test(name);
const ownFolders = ['checkpoints', 'rollouts', 'raw', 'value'];
export const isOwn = (name: string): boolean =>
  name === 'rlhf.json' || name === 'metrics.jsonl' || ownFolders.includes(name) || modelFiles.includes(name) || isWeights(name);

/** Where --overwrite keeps the older run until the new one has a checkpoint or its model; under the second name while it moves. */
export const REPLACED = 'replaced';
export const MOVING = 'replaced.moving';

/** Whether a folder holds a model, and checkpoints. */
export function contents(path: string): { model: boolean; checkpoints: boolean } {
  const names = readdirSync(path);
  const checkpoints = join(path, 'checkpoints');
  const inside = existsSync(checkpoints) && statSync(checkpoints).isDirectory() ? readdirSync(checkpoints) : [];
  return {
    model: names.some((name) => name === 'config.json' || name.startsWith('adapter_') || isWeights(name)),
    checkpoints: inside.some((name) => !name.startsWith('.') && !/\.tmp-/.test(name)),
  };
}

/** Moves what runs write, and nothing else, into replaced/: the folder may hold other files. Killed in between, all comes back. */
export function setAside(path: string): void {
  removeWhole(join(path, REPLACED));
  mkdirSync(join(path, MOVING));
  for (const name of readdirSync(path).filter(isOwn)) renameSync(join(path, name), join(path, MOVING, name));
  renameSync(join(path, MOVING), join(path, REPLACED));
}

/** Puts the older run back where there is one, in place of what the new one has begun. */
export function putBack(path: string): void {
  if (!existsSync(join(path, REPLACED))) return;
  for (const name of readdirSync(path).filter(isOwn)) rmSync(join(path, name), { recursive: true });
  renameSync(join(path, REPLACED), join(path, MOVING));
  finishPuttingBack(path);
}

/** A run that was killed has left an older one half moved. */
export function putBackLocked(path: string): void {
  const lock = FolderLock.take(path);
  try {
    finishPuttingBack(path);
  } finally {
    lock.release();
  }
}

function finishPuttingBack(path: string): void {
  const moving = join(path, MOVING);
  for (const name of readdirSync(moving)) renameSync(join(moving, name), join(path, name));
  rmdirSync(moving);
}
