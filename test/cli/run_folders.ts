import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { UsageError } from '../../src/errors.ts';
import { openRunFolder } from '../../src/run_folder.ts';

/** Where these tests' run folders lie, until their process ends. */
export const base = mkdtempSync(join(tmpdir(), 'rlhf-run-'));
process.on('exit', () => rmSync(base, { recursive: true, force: true }));
let count = 0;

export function begin(more: Record<string, unknown> = {}) {
  const out = (more.out as string) ?? join(base, `run${count++}`);
  return {
    kind: 'train-sft',
    settings: { out, resume: false, overwrite: false, lr: 1e-3, batchSize: 4, maxSteps: undefined, ...more },
  };
}

export async function refused(options: ReturnType<typeof begin>, message: RegExp, kind: Function = UsageError): Promise<void> {
  try {
    await openRunFolder(options);
  } catch (error) {
    assert.ok(error instanceof (kind as typeof UsageError), String(error));
    assert.match((error as Error).message, message);
    return;
  }
  assert.unreachable('accepted');
}

export const json = (path: string) => JSON.parse(readFileSync(path, 'utf8'));
export const checkpoint = (out: string, step = 5) =>
  mkdirSync(join(out, 'checkpoints', `step-00000${step}`), { recursive: true });

/** A folder with a finished run and a file of somebody else's; returns what it holds. */
export async function finished(out: string): Promise<() => Record<string, string>> {
  const run = await openRunFolder(begin({ out, lr: 7 }));
  run.metrics.append({ step: 1 });
  writeFileSync(join(out, 'config.json'), 'config');
  writeFileSync(join(out, 'model.safetensors'), 'weights');
  mkdirSync(join(out, 'value'));
  writeFileSync(join(out, 'value', 'config.json'), 'value');
  writeFileSync(join(out, 'notes.txt'), 'mine');
  await run.end({}, true);
  return () => Object.fromEntries((readdirSync(out, { recursive: true }) as string[]).sort()
    .filter((name) => statSync(join(out, name)).isFile()).map((name) => [name, readFileSync(join(out, name), 'utf8')]));
}
