import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { temporaryFolder } from '../files/temporary.ts';

const { isElf, stripElf } = await import(join(process.env.RLHF_ROOT!, 'scripts/binary/strip_elf.mjs'));

const addon = (platform: string): Buffer =>
  readFileSync(join(process.env.RLHF_ROOT!, 'node_modules/webgpu/dist', platform, 'dawn.node'));

test('Linux addons lose their symbol tables and keep every loaded byte', () => {
  for (const platform of ['linux-x64', 'linux-arm64']) {
    const whole = addon(platform);
    const stripped: Buffer = stripElf(whole);
    assert.ok(stripped.length < 0.95 * whole.length, `${platform}: ${whole.length} → ${stripped.length}`);
    // Section table: where it is (40) and its counts (60, 62) change, nothing else of the header.
    const header = (bytes: Buffer): number[] => [...bytes.subarray(0, 40), ...bytes.subarray(48, 60)];
    assert.equal(header(stripped), header(whole));
    assert.is(Buffer.compare(stripped.subarray(64, 15_000_000), whole.subarray(64, 15_000_000)), 0);
    assert.is(Buffer.compare(stripElf(stripped), stripped), 0, 'nothing is left to remove');
    const sections = stripped.readUInt16LE(60);
    assert.is(Number(stripped.readBigUInt64LE(40)) + 64 * sections, stripped.length, 'the section table ends the file');
  }
});

test('the stripped addon can be loaded', () => {
  if (`${process.platform}-${process.arch}` !== 'linux-x64') return;
  const path = join(temporaryFolder(), 'dawn.node');
  writeFileSync(path, stripElf(addon('linux-x64')));
  const holder = { exports: {} as { create?: unknown } };
  process.dlopen(holder, path);
  assert.type(holder.exports.create, 'function');
});

test('other formats are told apart', () => {
  assert.ok(isElf(addon('linux-x64')));
  for (const other of ['darwin-universal', 'win32-x64']) assert.not.ok(isElf(addon(other)));
  assert.throws(() => stripElf(addon('win32-x64')), /not a 64-bit ELF file/);
});

test.run();
