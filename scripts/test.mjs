// Bundles every test/**/*.test.ts with esbuild and runs the files with uvu, a process a file and two files at a time (a software driver
// compiles one kernel after another, which leaves a core idle), then prints `N passed, N failed` as the last line. What a device lacks
// features for is skipped: named below its file, and not among those that passed.
// Mesa's software driver computes with vectors of 256 bits unless the environment or a test file says otherwise: with 512 it takes twice as
// long to compile the forms for GPUs, and results are the same.
//   node scripts/test.mjs [PATTERN…]     only files whose path contains a pattern
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { join, relative } from 'node:path';
import { build } from 'esbuild';

/** A file that takes longer hangs. */
const LIMIT_MINUTES = 20;

const root = new URL('..', import.meta.url).pathname;
const patterns = process.argv.slice(2);
const files = readdirSync(join(root, 'test'), { recursive: true })
  .map((f) => join('test', String(f)))
  .filter((f) => f.endsWith('.test.ts') && (patterns.length === 0 || patterns.some((p) => f.includes(p))))
  .sort();
// A folder per run, so that several runs can go on side by side.
const outdir = join(root, 'node_modules', '.cache', `rlhf-tests-${process.pid}`);
mkdirSync(outdir, { recursive: true });
await build({
  entryPoints: files.map((f) => join(root, f)),
  outdir,
  outbase: join(root, 'test'),
  outExtension: { '.js': '.mjs' },
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node20',
  packages: 'external',
  sourcemap: 'inline',
  loader: JSON.parse(readFileSync(join(root, 'scripts/loaders.json'), 'utf8')),
  logLevel: 'warning',
});

let passed = 0;
let failed = 0;
let skipped = 0;
const waiting = [...files];
await Promise.all([1, 2].map(async () => {
  for (let file = waiting.shift(); file; file = waiting.shift()) await test(file);
}));
if (skipped) console.log(`${skipped} skipped`);
rmSync(outdir, { recursive: true, force: true });
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed || passed + skipped === 0 ? 1 : 0);

function run(command, args) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, env: { LP_NATIVE_VECTOR_WIDTH: '256', ...process.env, FORCE_COLOR: '0', RLHF_ROOT: root } });
    let output = '';
    child.stdout.on('data', (chunk) => (output += chunk));
    child.stderr.on('data', (chunk) => (output += chunk));
    const limit = setTimeout(() => {
      output += `\nkilled after ${LIMIT_MINUTES} minutes\n`;
      child.kill('SIGKILL');
      // What the file started may hold these open.
      child.stdout.destroy();
      child.stderr.destroy();
    }, LIMIT_MINUTES * 60_000);
    child.on('close', (code) => {
      clearTimeout(limit);
      resolve({ code, output });
    });
  });
}

/** Runs a file of tests, counts and prints them. */
async function test(file) {
  const bundle = join(outdir, relative('test', file).replace(/\.ts$/, '.mjs'));
  const started = performance.now();
  const { code, output } = await run(process.execPath, ['--enable-source-maps', bundle]);
  const total = Number(/Total:\s+(\d+)/.exec(output)?.[1] ?? 0);
  const ok = Number(/Passed:\s+(\d+)/.exec(output)?.[1] ?? 0);
  const out = Number(/Skipped:\s+(\d+)/.exec(output)?.[1] ?? 0);
  passed += ok;
  skipped += out;
  const bad = Math.max(total - ok, code === 0 && total + out > 0 ? 0 : 1);
  failed += bad;
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`${bad ? 'FAIL' : 'ok  '} ${file}  ${ok} tests, ${out ? `${out} skipped, ` : ''}${seconds} s`);
  if (bad) console.log(output);
  else for (const [line] of output.matchAll(/^skipped: .*$/gm)) console.log(`     ${line}`);
}
