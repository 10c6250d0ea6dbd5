#!/usr/bin/env node
// Makes the program one executable file: Node, the bundle with its kernels, templates and pages, and Dawn's addon.
//
//   npm run build:binary                                     dist/rlhf for this machine
//   node scripts/build-binary.mjs --platform win32-x64       dist/rlhf-win32-x64.exe, assembled here; untested
//
// Options: --platform NAME (linux-x64, linux-arm64, darwin-arm64, win32-x64), --out FILE. Node comes from npm and is
// kept in build/; nothing else is downloaded. Only Linux on x64 is tested; the others are put together in the same way and
// have never been started.
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { bundle } from './binary/bundle.mjs';
import { nodeOf } from './binary/node_package.mjs';
import { host, platforms } from './binary/platforms.mjs';
import { isElf, stripElf } from './binary/strip_elf.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const { values } = parseArgs({
  options: { platform: { type: 'string', default: host }, out: { type: 'string' } },
});
const { platform } = values;
const known = Object.keys(platforms);
for (const [what, name] of [
  ['--platform', platform],
  ['this machine', host],
]) {
  if (known.includes(name)) continue;
  console.error(`${what}: ${name} is none of ${known.join(', ')}`);
  process.exit(2);
}
const suffix = platform.startsWith('win32') ? '.exe' : '';
const out = resolve(
  values.out ?? join(root, 'dist', platform === host ? `rlhf${suffix}` : `rlhf-${platform}${suffix}`),
);
const target = platforms[platform];

const cache = join(root, 'build');
const builder = nodeOf(host, cache);
const node = nodeOf(platform, cache);
const started = spawnSync(builder.executable, ['--version'], { encoding: 'utf8' });
if (started.status !== 0) {
  console.error(`the Node that builds does not start here: ${(started.stderr || String(started.error)).trim().split('\n')[0]}`);
  console.error('hint: it needs glibc, libstdc++6, libgcc-s1 and libatomic1');
  process.exit(1);
}
mkdirSync(dirname(out), { recursive: true });
const work = mkdtempSync(join(cache, 'binary-'));
try {
  const script = join(work, 'rlhf.cjs');
  await bundle(root, script);

  const assets = {};
  const hash = createHash('sha256');
  for (const path of target.addon) {
    const content = readFileSync(join(root, 'node_modules/webgpu/dist', path));
    const bytes = isElf(content) ? stripElf(content) : content;
    const name = basename(path);
    hash.update(`${name}\0${bytes.length}\0`).update(bytes);
    writeFileSync((assets[name] = join(work, name)), bytes);
  }
  assets['addon.json'] = join(work, 'addon.json');
  writeFileSync(
    assets['addon.json'],
    JSON.stringify({ files: target.addon.map((p) => basename(p)), hash: hash.digest('hex') }),
  );

  const made = join(work, `rlhf${suffix}`);
  const config = join(work, 'sea.json');
  writeFileSync(
    config,
    JSON.stringify({
      main: script,
      output: made,
      executable: node.executable,
      disableExperimentalSEAWarning: true,
      useCodeCache: platform === host, // compiled code fits only the processor and the Node that made it
      execArgvExtension: 'none', // NODE_OPTIONS are meant for other programs
      assets,
    }),
  );
  execFileSync(builder.executable, ['--build-sea', config], { stdio: ['ignore', 'ignore', 'inherit'] });
  renameSync(made, out);
  const licenses = [
    builder.license,
    ...['LICENSE.md', ...(target.licenses ?? [])].map((p) => join(root, 'node_modules/webgpu', p)),
  ];
  writeFileSync(
    out.replace(/(\.exe)?$/, '.licenses.txt'),
    licenses.map((file) => readFileSync(file, 'utf8')).join('\n\n'),
  );
} finally {
  rmSync(work, { recursive: true, force: true });
}
console.log(`${relative(process.cwd(), out)}: ${(statSync(out).size / 1e6).toFixed(1)} MB`);
if (!target.tested) console.log(`untested: made for ${platform} without ever being started there`);
if (target.note) console.log(target.note.replace('FILE', relative(process.cwd(), out)));
