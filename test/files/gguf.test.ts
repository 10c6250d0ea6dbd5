import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { RunError, UsageError } from '../../src/errors.ts';
import { openGguf } from '../../src/files/gguf.ts';
import { writeGguf, type GgufEntry } from '../../src/files/gguf_write.ts';
import { openSafetensors } from '../../src/files/safetensors.ts';
import { FUZZ_CASES, mutate, seeded } from './mutate.ts';
import { MODELS, temporaryFolder } from './temporary.ts';

const fixtures = join(MODELS, '..', 'gguf');
const dir = temporaryFolder();

test("every supported type decodes to the bits that llama.cpp's Python package gives", () => {
  const file = openGguf(join(fixtures, 'types.gguf'));
  const expected = openSafetensors(join(fixtures, 'expected.safetensors'));
  assert.is(file.names.length, 11);
  for (const name of file.names) {
    assert.equal(file.tensors.get(name)!.shape, [3, 512]);
    assert.is(file.tensors.get(name)!.type.name, name);
    assert.equal(file.read(name), expected.read(name), name);
  }
  const metadata = Object.fromEntries([...file.metadata].filter(([key]) => key.startsWith('test.')));
  assert.equal(metadata, {
    'test.u32': 7,
    'test.i32': -7,
    'test.f32': 0.5,
    'test.bool': true,
    'test.string': 'naïve ▁',
    'test.strings': ['a', '', 'ü'],
    'test.ints': [1, -2, 3],
    'test.u64': 2 ** 40,
    'test.f64': 0.1,
  });
  file.close();
  expected.close();
});

test('what we write reads back, and Q8_0 has the bytes of llama.cpp', async () => {
  const expected = openSafetensors(join(fixtures, 'expected.safetensors'));
  const source = expected.read('q8.source');
  const path = join(dir, 'written.gguf');
  const metadata: GgufEntry[] = [
    { key: 'general.architecture', type: 'string', value: 'llama' },
    { key: 'a', type: 'u32', value: 4_000_000_000 },
    { key: 'b', type: 'f32', value: -0.25 },
    { key: 'c', type: 'bool', value: false },
    { key: 'd', type: 'string[]', value: ['x', 'ÿ▁'] },
    { key: 'e', type: 'i32[]', value: [1, -1] },
    { key: 'f', type: 'f32[]', value: [] },
  ];
  await writeGguf(path, metadata, [
    { name: 'w8', shape: [2, 64], type: 'Q8_0', data: source },
    { name: 'odd', shape: [5], type: 'F32', data: Float32Array.of(1, 2, 3, 4, 5) },
    { name: 'w16', shape: [64, 2], type: 'F16', data: async () => source },
  ]);
  const file = openGguf(path);
  assert.equal([...file.metadata.values()], ['llama', 4_000_000_000, -0.25, false, ['x', 'ÿ▁'], [1, -1], []]);
  assert.equal(file.tensors.get('w16')!.shape, [64, 2]);
  assert.equal(file.read('odd'), Float32Array.of(1, 2, 3, 4, 5));
  const { begin, end } = file.tensors.get('w8')!;
  assert.ok(
    readFileSync(path)
      .subarray(begin, end)
      .equals(Buffer.from(expected.readBytes('q8.bytes'))),
  );
  file.read('w16').forEach((v, i) => assert.ok(Math.abs(v - source[i]!) <= Math.abs(source[i]!) * 2 ** -11 + 2 ** -25));
  file.close();
  for (const bad of [NaN, 1e9]) {
    const error = await writeGguf(
      path,
      [],
      [{ name: 'w', shape: [1, 32], type: 'Q8_0', data: new Float32Array(32).fill(bad) }],
    ).then(
      () => undefined,
      (e: unknown) => e,
    );
    assert.instance(error, RunError);
  }
});

/** A header of version 3 with these counts, then `rest`. */
function craft(tensors: bigint, keys: bigint, rest: Buffer = Buffer.alloc(0), version = 3): string {
  const head = Buffer.alloc(24);
  head.write('GGUF');
  head.writeUInt32LE(version, 4);
  head.writeBigUInt64LE(tensors, 8);
  head.writeBigUInt64LE(keys, 16);
  const path = join(dir, 'crafted.gguf');
  writeFileSync(path, Buffer.concat([head, rest]));
  return path;
}

const word = (...values: number[]) => Buffer.from(Uint32Array.from(values).buffer);
const long = (...values: bigint[]) => Buffer.from(BigUint64Array.from(values).buffer);
const text = (value: string) => Buffer.concat([long(BigInt(value.length)), Buffer.from(value)]);
const tensor = (name: string, dims: bigint[], type: number, offset: bigint) =>
  Buffer.concat([text(name), word(dims.length), long(...dims), word(type), long(offset)]);
const data = (bytes: number) => Buffer.alloc(bytes);

test('hostile files are refused at once', () => {
  const refused = (path: string, pattern: RegExp) => {
    const started = performance.now();
    assert.throws(
      () => openGguf(path).close(),
      (error: unknown) => {
        assert.instance(error, UsageError);
        assert.match((error as Error).message, pattern);
        return true;
      },
    );
    assert.ok(performance.now() - started < 1000);
  };
  refused(join(MODELS, 'README.md'), /is not a GGUF file/);
  const pointer = join(dir, 'pointer.gguf');
  writeFileSync(pointer, 'version https://git-lfs.github.com/spec/v1\n');
  refused(pointer, /pointer\.gguf: is a Git LFS pointer/);
  refused(craft(0n, 0n, data(0), 1), /version 1 is not supported/);
  refused(craft(0n, 0n, data(0), 0x03000000), /big-endian/);
  refused(craft(2n ** 63n, 0n), /tensors: a count of/);
  refused(craft(0n, 2n ** 40n), /metadata keys: a count of/);
  refused(craft(0n, 1n, Buffer.concat([long(2n ** 62n), data(32)])), /a metadata key: a count of/);
  refused(craft(0n, 1n, Buffer.concat([text('k'), word(8), long(10n ** 9n), data(16)])), /"k": a count of 1000000000/);
  refused(craft(0n, 1n, Buffer.concat([text('k'), word(9, 0), long(2n ** 60n), data(16)])), /"k": a count/);
  refused(craft(0n, 1n, Buffer.concat([text('k'), word(9, 9), long(1n), data(16)])), /nested lists/);
  refused(craft(0n, 1n, Buffer.concat([text('k'), word(77), data(16)])), /"k": unknown value type 77/);
  refused(craft(0n, 2n, Buffer.concat([text('k'), word(4, 1), text('k'), word(4, 1), data(16)])), /"k" is there twice/);
  refused(craft(0n, 1n, Buffer.concat([text('general.alignment'), word(4, 0)])), /general.alignment 0/);
  const one = (...args: Parameters<typeof tensor>) => craft(1n, 0n, Buffer.concat([tensor(...args), data(256)]));
  refused(one('w', [2n ** 40n, 2n ** 40n], 0, 0n), /tensor "w": shape/);
  refused(one('w', [0n], 0, 0n), /tensor "w": shape \[0\]/);
  refused(one('w', [2n ** 30n], 0, 0n), /tensor "w": ends at byte/);
  refused(one('w', [4n], 0, 32n * 10n ** 12n), /tensor "w": ends at byte/);
  refused(one('w', [4n], 0, 7n), /offset 7 is not aligned/);
  refused(one('w', [33n], 8, 0n), /no multiple of the 32 in a Q8_0 block/);
  refused(one('w', [4n], 99, 0n), /unknown type 99/);
  refused(one('w', [1n, 1n, 1n, 1n, 1n], 0, 0n), /5 dimensions/);
  const two = Buffer.concat([tensor('a', [16n], 0, 0n), tensor('b', [4n], 0, 32n), data(256)]);
  refused(craft(2n, 0n, two), /tensor "b": overlaps/);
  refused(
    craft(2n, 0n, Buffer.concat([tensor('a', [4n], 0, 0n), tensor('a', [4n], 0, 32n), data(256)])),
    /"a" is there twice/,
  );
  const iq = openGguf(one('w', [256n], 16, 0n));
  assert.throws(() => iq.read('w'), /tensor "w" has the type IQ2_XXS, which is not supported \(supported: F32, F16/);
  iq.close();
});

test(`${FUZZ_CASES} mutated files are read or refused, never crash`, () => {
  const good = readFileSync(join(fixtures, 'types.gguf'));
  const random = seeded(11);
  const path = join(dir, 'mutated.gguf');
  let opened = 0;
  for (let n = 0; n < FUZZ_CASES; n++) {
    writeFileSync(path, mutate(good, random, 1500));
    const started = performance.now();
    try {
      const file = openGguf(path);
      opened++;
      for (const name of file.names) if (file.tensors.get(name)!.type.decode) file.read(name);
      file.close();
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      assert.ok(error.message.startsWith(path) && !error.message.includes('\n'), error.message);
    }
    assert.ok(performance.now() - started < 1000);
  }
  assert.ok(opened > 0 && opened < FUZZ_CASES);
});

test.run();
