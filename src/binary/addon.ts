import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { RunError } from '../errors.ts';
import { writeFileAtomic } from '../files/atomic.ts';
import { cacheFolder } from '../files/cache_folder.ts';

/** A file of the native addon: the first of them is the addon, the others lie beside it. */
export interface AddonFile {
  name: string;
  bytes: Uint8Array;
}

/**
 * Puts files into `folder`, unless they are there with just this content. Programs that start at once may do it at
 * once: a file appears whole or not at all, and all write the same. Returns the first file's path.
 */
export async function unpack(files: readonly AddonFile[], folder: string): Promise<string> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  for (const { name, bytes } of files) {
    const path = join(folder, name);
    const found = await readFile(path).catch(() => undefined);
    if (!found || Buffer.compare(found, bytes) !== 0) await writeFileAtomic(path, bytes);
  }
  return join(folder, files[0].name);
}

/**
 * Loads the addon from the user's cache folder, `rlhf/HASH` in it, unpacking it at the first start; where nothing can
 * be written or run there, from a temporary folder that is removed at once (on Windows it stays). Returns the addon's exports.
 * @throws RunError where neither works
 */
export async function openAddon(files: readonly AddonFile[], hash: string, cache = cacheFolder()): Promise<unknown> {
  const troubles: string[] = [];
  if (cache !== undefined) {
    try {
      return load(await unpack(files, join(cache, 'rlhf', hash)));
    } catch (error) {
      troubles.push((error as Error).message);
    }
  }
  let folder: string | undefined;
  try {
    folder = await mkdtemp(join(tmpdir(), 'rlhf-'));
    return load(await unpack(files, folder));
  } catch (error) {
    troubles.push((error as Error).message);
  } finally {
    // Windows keeps what is loaded, but not the shader compilers beside it, which Dawn loads later.
    if (folder && process.platform !== 'win32') await rm(folder, { recursive: true, force: true }).catch(() => undefined);
  }
  throw new RunError(
    `cannot load Dawn: ${[...new Set(troubles)].map((text) => text.split('\n')[0]).join('; ')}`,
    'it needs glibc 2.34 or newer, libstdc++6, and a folder that may hold programs: set XDG_CACHE_HOME to one',
  );
}

function load(path: string): unknown {
  const holder: { exports: unknown } = { exports: {} };
  process.dlopen(holder, path, constants.dlopen.RTLD_NOW);
  return holder.exports;
}
