import { spawn, type ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';

export interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface Program {
  /** A fresh folder, removed by `remove`; programs run in it. */
  folder: string;
  start(args: string[], env?: Record<string, string>): ChildProcess;
  run(args: string[], options?: { input?: string; env?: Record<string, string> }): Promise<Outcome>;
  remove(): void;
}

/**
 * Bundles src/cli.ts as the build does, except for the stages: each `../stages/NAME.ts` is `NAME.mjs` beside the bundle,
 * from the texts given. So the front is tested as a process, without a GPU, with stages that print, wait or fail as a
 * test needs it.
 */
export async function buildProgram(stages: Record<string, string> = {}): Promise<Program> {
  const root = process.env.RLHF_ROOT!;
  const cache = join(root, 'node_modules', '.cache');
  mkdirSync(cache, { recursive: true });
  const folder = mkdtempSync(join(cache, 'rlhf-cli-'));
  await build({
    entryPoints: [join(root, 'src', 'cli.ts')],
    outfile: join(folder, 'cli.mjs'),
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    logLevel: 'error',
    plugins: [
      {
        name: 'stages',
        setup: ({ onResolve }) =>
          onResolve({ filter: /\/stages\/\w+\.ts$/ }, ({ path }) => ({
            path: `./${/(\w+)\.ts$/.exec(path)![1]}.mjs`,
            external: true,
          })),
      },
    ],
  });
  for (const [name, text] of Object.entries(stages)) writeFileSync(join(folder, `${name}.mjs`), text);
  const start = (args: string[], env: Record<string, string> = {}): ChildProcess =>
    spawn(process.execPath, [join(folder, 'cli.mjs'), ...args], { cwd: folder, env: { ...process.env, ...env } });
  return {
    folder,
    start,
    run: (args, { input, env } = {}) => {
      const child = start(args, env);
      child.stdin!.on('error', () => undefined);
      child.stdin!.end(input ?? '');
      return outcome(child);
    },
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** What a process wrote, and how it ended; one that hangs is killed, its code is then null. */
export function outcome(child: ChildProcess): Promise<Outcome> {
  let [stdout, stderr] = ['', ''];
  child.stdout!.on('data', (chunk) => (stdout += chunk));
  child.stderr!.on('data', (chunk) => (stderr += chunk));
  const limit = setTimeout(() => child.kill('SIGKILL'), 20_000);
  return new Promise((resolve) =>
    child.on('close', (code) => {
      clearTimeout(limit);
      resolve({ code, stdout, stderr });
    }),
  );
}
