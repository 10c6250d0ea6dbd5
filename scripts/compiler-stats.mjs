// What AMD's shader compiler makes of the kernels, on a machine without a GPU. Mesa has a stand-in for the kernel's driver on which its Vulkan
// driver for AMD opens and compiles, but nothing runs (Debian: mesa-drm-shim beside mesa-vulkan-drivers). All kernels of the training, PPO and
// sampling steps of some known models are compiled in every form they take, and a table is printed:
// registers, spilled ones, memory, how many subgroups a SIMD holds at once, instructions, and the compiler's own estimate of cycles.
//   node scripts/compiler-stats.mjs [--gpu navi31] [--model NAME]… [--only TEXT] [--json FILE] [--asm FOLDER]
// --gpu one of Mesa's names (renoir polaris10 vega10 navi10 navi21 navi31 gfx1150), --only kernels whose name or constants contain
// TEXT, --json a line a kernel, --asm machine code, a file a kernel.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { build } from 'esbuild';
import { kernelsOf, table } from './compiler-stats-table.mjs';

const SHIM = '/usr/lib/x86_64-linux-gnu/libamdgpu_noop_drm_shim.so';
const DRIVER = '/usr/share/vulkan/icd.d/radeon_icd.json';
const root = new URL('..', import.meta.url).pathname;
const { values } = parseArgs({ options: {
  gpu: { type: 'string', default: 'navi31' }, model: { type: 'string', multiple: true, default: [] }, only: { type: 'string', default: '' },
  json: { type: 'string' }, asm: { type: 'string' },
} });
for (const [path, of] of [[SHIM, 'mesa-drm-shim'], [DRIVER, 'mesa-vulkan-drivers']]) {
  if (existsSync(path)) continue;
  console.error(`compiler-stats: ${path} is missing: install ${of} (Debian and Ubuntu, x86-64)`);
  process.exit(2);
}
const bundle = join(root, 'node_modules', '.cache', `compiler-stats-${process.pid}.mjs`);
await build({
  entryPoints: [join(root, 'scripts/compiler-stats-kernels.ts')], outfile: bundle, bundle: true, platform: 'node', format: 'esm', target: 'node20',
  packages: 'external', loader: JSON.parse(readFileSync(join(root, 'scripts/loaders.json'), 'utf8')), logLevel: 'warning',
});
const env = {
  ...process.env, LD_PRELOAD: SHIM, AMDGPU_GPU_ID: values.gpu, VK_ICD_FILENAMES: DRIVER, RLHF_DEBUG: '1', RLHF_MATRIX_UNITS: '1',
  RADV_DEBUG: `shaderstats,nocache${values.asm ? ',asm' : ''}`,
};
// Into files: the driver loses what a pipe does not take at once.
const streams = ['stdout', 'stderr'].map((name) => `${bundle}.${name}`);
const child = spawn(process.execPath, [bundle, JSON.stringify({ models: values.model, only: values.only })],
  { cwd: root, env, stdio: ['ignore', ...streams.map((path) => openSync(path, 'w'))] });
const code = await new Promise((resolve) => child.on('close', resolve));
const [stdout, stderr] = streams.map((path) => readFileSync(path, 'utf8'));
[bundle, ...streams].forEach((path) => rmSync(path, { force: true }));
const kernels = kernelsOf(stdout, stderr);
if (code !== 0) {
  console.error(`compiler-stats: the driver's process ended with ${code} after ${kernels.length} kernels\n${stderr.trim().split('\n').slice(-12).join('\n')}`);
  process.exit(1);
}
console.log(stdout.split('\n')[0]);
console.log(table(kernels));
if (values.json) writeFileSync(values.json, kernels.map(({ text, ...line }) => `${JSON.stringify(line)}\n`).join(''));
if (values.asm) {
  mkdirSync(values.asm, { recursive: true });
  kernels.forEach(({ kernel, index, constants, text }) => writeFileSync(join(values.asm, `${kernel}-${index}.s`), `${kernel} ${constants}\n${text}`));
}
