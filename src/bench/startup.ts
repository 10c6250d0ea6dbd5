import { spawn } from 'node:child_process';
import { realpathSync } from 'node:fs';
import { RunError } from '../errors.ts';
import type { BenchCase, Line } from './measure.ts';

/** How soon another run of this program answers `--version`, and is ready for its first training step with kernels known to the driver. */
export function startup(device?: string): BenchCase {
  return {
    name: 'startup',
    shape: {},
    async prepare() {
      const ready: number[] = [];
      return {
        run: async () => void (await ownOutput(['--version'])),
        async more() {
          const args = ['bench', 'train_step', '--steps', '1', '--quiet', ...(device ? ['--device', device] : [])];
          for (let i = 0; i < 2; i++) ready.push((JSON.parse(await ownOutput(args)) as Line & { ready_ms: number }).ready_ms);
          return { first_step_ready_ms: ready.at(-1) };
        },
      };
    },
  };
}

/** Standard output of this very program, run once more; an executable file has itself as its script. */
function ownOutput(args: readonly string[]): Promise<string> {
  const script = process.argv[1];
  const own = script && realpathSync(script) !== realpathSync(process.execPath) ? [...process.execArgv, script] : [];
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...own, ...args], { stdio: ['ignore', 'pipe', 'ignore'] });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => (output += chunk));
    child.on('error', reject);
    child.on('close', (code) => (code === 0 ? resolve(output) : reject(new RunError(`rlhf ${args.join(' ')}: ended with exit code ${code}`))));
  });
}
