import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeFile } from 'node:fs/promises';
import { RunError } from '../errors.ts';
import { removeWhole, writeFolderAtomic } from '../files/atomic.ts';
import { openSafetensors, writeSafetensors } from '../files/safetensors.ts';
import type { Tensor } from '../gpu/tensor.ts';
import type { FlatParameters } from '../model/flat_parameters.ts';

/** Tensors laid out like a model's weights (values, moments, averages) that belong to a run's state. */
export interface Part {
  name: string;
  weights: FlatParameters;
  flats: readonly Tensor[];
}

/** What of a run's state is no tensor. Random numbers are counter-based, so the step stands for all of their states. */
export interface RunState {
  /** Steps done. */
  step: number;
  [more: string]: unknown;
}

const NAME = /^step-(\d{8})$/;

/**
 * Writes checkpoints/step-NNNNNNNN whole or not at all (aside, flushed, renamed), and then removes older ones.
 * Throws RunError where the disk is full or unwritable, or a number is not finite (a loss finds that out a step later): the
 * older checkpoint is still there then.
 */
export async function saveCheckpoint(folder: string, parts: readonly Part[], state: RunState): Promise<void> {
  const name = `step-${String(state.step).padStart(8, '0')}`;
  await writeFolderAtomic(join(folder, name), async (aside) => {
    for (const { name: part, weights, flats } of parts) {
      const tensors = weights.toWrite((tensor) => new RunError(`step ${state.step}: ${tensor} of ${part} holds a number that is not finite`,
        'lower --lr; the last checkpoint is untouched'), flats);
      await writeSafetensors(join(aside, `${part}.safetensors`), tensors);
    }
    await writeFile(join(aside, 'state.json'), `${JSON.stringify(state)}\n`);
  });
  for (const other of readdirSync(folder)) {
    if (NAME.test(other) && other !== name) removeWhole(join(folder, other));
  }
}

/** The newest checkpoint's state and folder, if there is one. */
export function lastCheckpoint(folder: string): { path: string; state: RunState } | undefined {
  if (!existsSync(folder)) return undefined;
  const name = readdirSync(folder).filter((n) => NAME.test(n)).sort().at(-1);
  if (!name) return undefined;
  const path = join(folder, name);
  try {
    const state = JSON.parse(readFileSync(join(path, 'state.json'), 'utf8')) as RunState | null;
    if (state?.step !== Number(NAME.exec(name)![1])) throw new Error('state.json is of another step');
    return { path, state };
  } catch (error) {
    throw new RunError(`${path}: the checkpoint cannot be read: ${(error as Error).message}`);
  }
}

/** Puts a checkpoint's tensors back on the device, bit for bit. */
export function restoreCheckpoint(path: string, parts: readonly Part[]): void {
  for (const { name, weights, flats } of parts) {
    const file = openSafetensors(join(path, `${name}.safetensors`));
    try {
      weights.fill((tensor, from, count) => file.read(tensor, from, count), flats);
    } finally {
      file.close();
    }
  }
}
