import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { RunError } from '../../src/errors.ts';
import { clearLeftovers, outputError, writeFileAtomic, writeFolderAtomic } from '../../src/files/atomic.ts';
import { temporaryFolder } from './temporary.ts';

const dir = temporaryFolder();

async function failure(work: Promise<void>): Promise<Error> {
  try {
    await work;
  } catch (error) {
    return error as Error;
  }
  return assert.unreachable('should have failed') as never;
}

test('a file is replaced whole and nothing is left beside it', async () => {
  const path = join(dir, 'a.json');
  await writeFileAtomic(path, 'one');
  await writeFileAtomic(path, 'two');
  assert.is(readFileSync(path, 'utf8'), 'two');
  assert.equal(readdirSync(dir), ['a.json']);
});

test('a folder appears whole, replaces an older one, and stays as it was when filling fails', async () => {
  const path = join(dir, 'step-1');
  const fill = (text: string) => async (aside: string) => {
    assert.not(aside === path);
    mkdirSync(join(aside, 'deep'));
    writeFileSync(join(aside, 'deep', text), text);
  };
  await writeFolderAtomic(path, fill('one'));
  await writeFolderAtomic(path, fill('two'));
  assert.equal(readdirSync(join(path, 'deep')), ['two']);
  const error = await failure(
    writeFolderAtomic(path, async (aside) => {
      writeFileSync(join(aside, 'half'), '');
      throw new Error('stopped midway');
    }),
  );
  assert.is(error.message, 'stopped midway');
  assert.equal(readdirSync(join(path, 'deep')), ['two']);
  assert.equal(
    readdirSync(dir).filter((name) => name.startsWith('step-1')),
    ['step-1'],
  );
});

test('full, missing and blocked places give a RunError that names the place', async () => {
  // /dev/full answers every write with "no space left on device".
  const { writeSafetensors } = await import('../../src/files/safetensors.ts');
  const full = await failure(writeSafetensors('/dev/full', [{ name: 'w', shape: [2], data: new Float32Array(2) }]));
  assert.instance(full, RunError);
  assert.is(full.message, '/dev/full: the disk is full');
  const missing = await failure(writeFileAtomic(join(dir, 'no', 'such', 'x'), 'x'));
  assert.instance(missing, RunError);
  assert.match(missing.message, /its folder does not exist/);
  symlinkSync(join(dir, 'no', 'such'), join(dir, 'link'));
  const nowhere = await failure(mkdir(join(dir, 'link'), { recursive: true }).then(() => undefined, (error: unknown) => { throw outputError(error, join(dir, 'link')); }));
  assert.match(nowhere.message, /link: cannot be written, it is a link to nothing/);
  writeFileSync(join(dir, 'file'), '');
  const blocked = await failure(writeFolderAtomic(join(dir, 'file', 'sub'), async () => undefined));
  assert.instance(blocked, RunError);
  assert.match(blocked.message, /a file is in the way/);
});

test('an unwritable folder gives a RunError', async () => {
  if (process.getuid?.() === 0) return; // root may write everywhere
  const locked = join(dir, 'locked');
  mkdirSync(locked);
  chmodSync(locked, 0o500);
  const error = await failure(writeFileAtomic(join(locked, 'x'), 'x'));
  assert.instance(error, RunError);
  assert.match(error.message, /permission denied/);
});

test('leftovers of killed processes go, an interrupted replacement comes back, living work stays', async () => {
  const place = join(dir, 'run');
  mkdirSync(place);
  const dead = spawnSync(process.execPath, ['-e', '']).pid;
  const names = [
    `m.tmp-${dead}-00000001`,
    `gone.old-${dead}-00000002`,
    `there.old-${dead}-00000003`,
    `m.tmp-${process.ppid}-00000004`,
    `m.tmp-${process.pid}-00000005`,
    'there',
    'other.tmp',
    'x.tmp-1-zz',
  ];
  for (const name of names) {
    mkdirSync(join(place, name));
    writeFileSync(join(place, name, 'mark'), name);
  }
  await writeFolderAtomic(join(place, 'fresh'), async (aside) => {
    await clearLeftovers(place);
    assert.ok(existsSync(aside), 'what this process is writing stays');
  });
  assert.equal(readdirSync(place).sort(), [
    'fresh',
    'gone',
    `m.tmp-${process.ppid}-00000004`,
    'other.tmp',
    'there',
    'x.tmp-1-zz',
  ]);
  assert.is(readFileSync(join(place, 'gone', 'mark'), 'utf8'), `gone.old-${dead}-00000002`);
  assert.is(readFileSync(join(place, 'there', 'mark'), 'utf8'), 'there');
  await clearLeftovers(join(dir, 'not there'));
});

test.run();
