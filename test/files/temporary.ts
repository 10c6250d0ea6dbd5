import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Root of the fixtures with models of known answers. */
export const MODELS = join(process.env['RLHF_ROOT'] ?? process.cwd(), 'test', 'fixtures', 'models');

/** A fresh folder that is deleted when the process ends. */
export function temporaryFolder(): string {
  const dir = mkdtempSync(join(tmpdir(), 'rlhf-test-'));
  process.on('exit', () => rmSync(dir, { recursive: true, force: true }));
  return dir;
}
