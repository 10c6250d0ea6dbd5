import { mkdirSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type AddonFile, openAddon, unpack } from '../../src/binary/addon.ts';
import { RunError } from '../../src/errors.ts';
import { cacheFolder } from '../../src/files/cache_folder.ts';
import { temporaryFolder } from '../files/temporary.ts';

/** Dawn itself, the addon that the executable carries. */
const dawn = (): AddonFile[] => {
  const platform = process.platform === 'darwin' ? 'darwin-universal' : `${process.platform}-${process.arch}`;
  const path = join(process.env.RLHF_ROOT!, 'node_modules/webgpu/dist', platform, 'dawn.node');
  return [{ name: 'dawn.node', bytes: readFileSync(path) }];
};
const small = (text: string): AddonFile[] => [
  { name: 'a.node', bytes: Buffer.from(text) },
  { name: 'b.dll', bytes: Buffer.from(`${text} too`) },
];

test('the cache folder is XDG_CACHE_HOME where that is absolute, else in the home folder', () => {
  assert.is(cacheFolder({ XDG_CACHE_HOME: '/somewhere' }, 'linux'), '/somewhere');
  assert.is(cacheFolder({ XDG_CACHE_HOME: 'somewhere' }, 'linux'), join(homedir(), '.cache'));
  assert.is(cacheFolder({}, 'darwin'), join(homedir(), 'Library', 'Caches'));
  assert.is(cacheFolder({ LOCALAPPDATA: 'C:\\local' }, 'win32'), 'C:\\local');
});

test('files are unpacked once, and again where their content is another', async () => {
  const folder = join(temporaryFolder(), 'deep', 'hash');
  assert.is(await unpack(small('one'), folder), join(folder, 'a.node'));
  assert.is(readFileSync(join(folder, 'b.dll'), 'utf8'), 'one too');
  const long = new Date(1e12);
  for (const name of ['a.node', 'b.dll']) utimesSync(join(folder, name), long, long);
  writeFileSync(join(folder, 'b.dll'), 'one');
  await unpack(small('one'), folder);
  assert.is(statSync(join(folder, 'a.node')).mtimeMs, 1e12, 'what is right stays');
  assert.is(readFileSync(join(folder, 'b.dll'), 'utf8'), 'one too', 'a truncated file is replaced');
});

test('many that unpack at once leave the files and nothing else', async () => {
  const folder = join(temporaryFolder(), 'hash');
  await Promise.all(Array.from({ length: 16 }, () => unpack(small('x'.repeat(100_000)), folder)));
  assert.equal(readdirSync(folder).sort(), ['a.node', 'b.dll']);
  assert.is(statSync(join(folder, 'a.node')).size, 100_000);
});

test('the addon is opened from the cache folder, and from a temporary one where the cache cannot be used', async () => {
  const cache = temporaryFolder();
  const opened = (await openAddon(dawn(), 'hash', cache)) as { create: unknown };
  assert.type(opened.create, 'function');
  assert.equal(readdirSync(join(cache, 'rlhf', 'hash')), ['dawn.node']);

  const blocked = temporaryFolder();
  writeFileSync(join(blocked, 'rlhf'), 'a file in the way');
  const before = process.env.TMPDIR;
  const temporary = join(temporaryFolder(), 'tmp');
  mkdirSync(temporary);
  process.env.TMPDIR = temporary;
  try {
    for (const folder of [blocked, undefined]) {
      const other = (await openAddon(dawn(), 'hash', folder)) as { create: unknown };
      assert.type(other.create, 'function');
      assert.equal(readdirSync(temporary), [], 'the temporary folder is gone');
    }
  } finally {
    if (before === undefined) delete process.env.TMPDIR;
    else process.env.TMPDIR = before;
  }
});

test('an addon that cannot be loaded is told in one line', async () => {
  try {
    await openAddon(small('no library'), 'hash', temporaryFolder());
    assert.unreachable();
  } catch (error) {
    assert.instance(error, RunError);
    assert.match((error as RunError).message, /^cannot load Dawn: .*a\.node/);
    assert.not.match((error as RunError).message, /\n/);
    assert.match((error as RunError).hint!, /XDG_CACHE_HOME/);
  }
});

test.run();
