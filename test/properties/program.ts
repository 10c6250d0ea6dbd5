import { spawn, type ChildProcess, type SpawnOptions } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';
import * as assert from 'uvu/assert';

export interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

export type Run = (args: string[], input?: string) => Promise<Outcome>;

/** The whole program, stages and kernels included, as processes in a fresh folder. */
export interface WholeProgram {
  folder: string;
  start(args: string[], options?: SpawnOptions): ChildProcess;
  /** Runs a command to its end, whatever that is. */
  run: Run;
  /** Runs a command that must succeed; returns its standard output. */
  succeed(args: string[], input?: string): Promise<string>;
  /** Writes a file of JSON lines into the folder and returns its name. */
  rows(name: string, rows: unknown[]): string;
  path(...parts: string[]): string;
  remove(): void;
}

/** Bundles src/cli.ts with everything it needs, as the build does. */
export async function buildWholeProgram(): Promise<WholeProgram> {
  const root = process.env.RLHF_ROOT!;
  const cache = join(root, 'node_modules', '.cache');
  mkdirSync(cache, { recursive: true });
  const folder = mkdtempSync(join(cache, 'rlhf-whole-'));
  chmodSync(folder, 0o755); // another user runs it too, where a folder must not be writable
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  await build({
    entryPoints: [join(root, 'src', 'cli.ts')],
    outdir: join(folder, 'program'),
    bundle: true,
    splitting: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    packages: 'external',
    outExtension: { '.js': '.mjs' },
    loader: { '.wgsl': 'text', '.html': 'text', '.css': 'text', '.txt': 'text' },
    logLevel: 'error',
  });
  const program = join(folder, 'program', 'cli.mjs');
  const start = (args: string[], options: SpawnOptions = {}): ChildProcess =>
    spawn(process.execPath, [program, ...args], { cwd: folder, ...options });
  const run: Run = (args, input = '') => {
    const child = start(args);
    child.stdin!.on('error', () => undefined);
    child.stdin!.end(input);
    return outcome(child);
  };
  return {
    folder,
    start,
    run,
    async succeed(args, input) {
      const { code, stdout, stderr } = await run(args, input);
      assert.is(code, 0, `rlhf ${args.join(' ')}\n${stderr}`);
      return stdout;
    },
    rows(name, rows) {
      writeRows(join(folder, name), rows);
      return name;
    },
    path: (...parts) => join(folder, ...parts),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** What a process wrote, and how it ended; one that hangs is killed, its code is then null. */
export function outcome(child: ChildProcess): Promise<Outcome> {
  let [stdout, stderr] = ['', ''];
  child.stdout!.on('data', (chunk) => (stdout += chunk));
  child.stderr!.on('data', (chunk) => (stderr += chunk));
  const limit = setTimeout(() => child.kill('SIGKILL'), 240_000);
  return new Promise((resolve) =>
    child.on('close', (code) => {
      clearTimeout(limit);
      resolve({ code, stdout, stderr });
    }),
  );
}

/** Writes a file of JSON lines. */
export const writeRows = (path: string, rows: unknown[]): void =>
  writeFileSync(path, rows.map((row) => `${JSON.stringify(row)}\n`).join(''));

/** The objects of JSON lines. */
export const jsonLines = (text: string): Record<string, any>[] =>
  text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));

/** metrics.jsonl of a run, without what the clock put there. */
export function metricsOf(dir: string): Record<string, unknown>[] {
  return jsonLines(readFileSync(join(dir, 'metrics.jsonl'), 'utf8')).map((line) =>
    Object.fromEntries(Object.entries(line).filter(([name]) => name !== 'seconds' && !name.startsWith('time/'))),
  );
}

/** Asserts that two runs have left the same weights, byte for byte, and the same metrics but for times. */
export function assertSameRun(actual: string, expected: string, message: string): void {
  for (const part of ['.', 'value', 'raw']) {
    const file = join(part, 'model.safetensors');
    assert.is(existsSync(join(actual, file)), existsSync(join(expected, file)), `${message}: ${file} is there`);
    if (!existsSync(join(expected, file))) continue;
    const same = readFileSync(join(actual, file)).equals(readFileSync(join(expected, file)));
    assert.ok(same, `${message}: ${file} differs`);
  }
  assert.equal(metricsOf(actual), metricsOf(expected), `${message}: metrics`);
}

/** `rlhf pretrain` arguments for a model of a few thousand parameters. */
export const TINY = ['--layers', '1', '--width', '16', '--heads', '2', '--context', '32', '--vocab-size', '262'];
