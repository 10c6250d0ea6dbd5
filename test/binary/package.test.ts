import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { temporaryFolder } from '../files/temporary.ts';

const root = process.env.RLHF_ROOT!;
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
let dist: string;

test.before(() => {
  dist = join(temporaryFolder(), 'dist');
  const tsup = join(root, 'node_modules/tsup/dist/cli-default.js');
  const said = execFileSync(process.execPath, [tsup, '--out-dir', dist], {
    cwd: root,
    encoding: 'utf8',
    stdio: 'pipe',
  });
  assert.not.match(said, /warn/i);
});

test('the bundle needs nothing but Node and what package.json names as dependencies', () => {
  const needed = new Set<string>();
  for (const name of readdirSync(dist)) {
    const text = readFileSync(join(dist, name), 'utf8');
    for (const [, module] of text.matchAll(/^(?:import|export)\b[^;'"]*?from "([^"]+)";$/gm)) needed.add(module);
    for (const [, module] of text.matchAll(/^import "([^"]+)";$/gm)) needed.add(module);
    for (const [, module] of text.matchAll(/\bawait import\("([^"]+)"\)/g)) needed.add(module);
  }
  const outside = [...needed].filter((name) => !name.startsWith('.') && !name.startsWith('node:'));
  assert.equal(outside.filter((name) => !builtinModules.includes(name)).sort(), Object.keys(manifest.dependencies));
});

test('the package holds the whole bundle, the licence and the manual, and nothing else', () => {
  const folder = join(temporaryFolder(), 'rlhf');
  mkdirSync(folder);
  for (const name of ['package.json', 'LICENSE', 'README.md', 'src', 'kernels', 'tsup.config.ts']) {
    if (existsSync(join(root, name))) cpSync(join(root, name), join(folder, name), { recursive: true });
  }
  cpSync(dist, join(folder, 'dist'), { recursive: true });
  const listed = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts', '--loglevel=error'], {
    cwd: folder,
    encoding: 'utf8',
  });
  const [packed] = Object.values(JSON.parse(listed)) as { files: { path: string }[] }[];
  const expected = ['LICENSE', 'README.md', 'package.json', ...readdirSync(dist).map((name) => `dist/${name}`)];
  assert.equal(packed.files.map(({ path }) => path).sort(), expected.sort());
});

test('the packaged program runs beside its one dependency', () => {
  const folder = join(temporaryFolder(), 'project');
  const installed = join(folder, 'node_modules', 'rlhf');
  mkdirSync(installed, { recursive: true });
  cpSync(dist, join(installed, 'dist'), { recursive: true });
  cpSync(join(root, 'package.json'), join(installed, 'package.json'));
  symlinkSync(join(root, 'node_modules/webgpu'), join(folder, 'node_modules/webgpu'));
  const rlhf = (...args: string[]): string =>
    execFileSync(process.execPath, [join(installed, manifest.bin.rlhf), ...args], { cwd: folder, encoding: 'utf8' });
  assert.match(rlhf('--version'), new RegExp(`^rlhf ${manifest.version} `));
  assert.match(rlhf('doctor'), /^device: \S/m);
});

test.run();
