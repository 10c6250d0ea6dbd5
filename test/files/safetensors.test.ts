import { readFileSync, writeFileSync, mkdirSync, copyFileSync, readdirSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { UsageError, RunError } from '../../src/errors.ts';
import { floatToBfloat, floatToHalf, halfToFloat } from '../../src/files/float_formats.ts';
import { checkFinite, openSafetensors, writeSafetensors } from '../../src/files/safetensors.ts';
import { openShards } from '../../src/files/safetensors_shards.ts';
import { FUZZ_CASES, mutate, seeded } from './mutate.ts';
import { MODELS, temporaryFolder } from './temporary.ts';

const dir = temporaryFolder();

/** A file with this header text (or these bytes) and `data` zero bytes. */
function craft(header: string | Uint8Array, data = 0, length?: bigint): string {
  const json = Buffer.from(header);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length ?? BigInt(json.length));
  const path = join(dir, 'crafted.safetensors');
  writeFileSync(path, Buffer.concat([prefix, json, Buffer.alloc(data)]));
  return path;
}

function refused(path: string, pattern: RegExp): void {
  const started = process.cpuUsage(); // not the clock, which runs on while others have the CPU
  try {
    openSafetensors(path).close();
  } catch (error) {
    assert.instance(error, UsageError);
    const { message } = error as Error;
    assert.match(message, pattern);
    assert.ok(message.startsWith(path), message);
    assert.not(message.includes('\n'));
    assert.ok(message.length < 400, message);
    const { user, system } = process.cpuUsage(started);
    assert.ok(user + system < 1e6, 'took more than a second');
    return;
  }
  assert.unreachable(`accepted, but ${pattern} was due`);
}

const entry = (dtype: string, shape: number[], begin: number, end: number) => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});

test('every half value survives the way to float32 and back', () => {
  for (let bits = 0; bits < 65536; bits++) {
    const value = halfToFloat(bits);
    if (Number.isNaN(value)) assert.is(floatToHalf(value) & 0x7c00, 0x7c00);
    else assert.is(floatToHalf(value), bits, `bits ${bits}`);
  }
});

test('halves and bfloats round to nearest, ties to even', () => {
  // The two neighbours of each midpoint must go to opposite sides, and the midpoint to the even one.
  for (let bits = 0; bits < 0x7bff; bits++) {
    const middle = (halfToFloat(bits) + halfToFloat(bits + 1)) / 2;
    const step = middle * 2 ** -23;
    assert.is(floatToHalf(middle), bits & 1 ? bits + 1 : bits, `midpoint after ${bits}`);
    assert.is(floatToHalf(-middle), (bits & 1 ? bits + 1 : bits) | 0x8000);
    if (bits > 0) {
      assert.is(floatToHalf(Math.fround(middle + step)), bits + 1);
      assert.is(floatToHalf(Math.fround(middle - step)), bits);
    }
  }
  assert.is(floatToHalf(65519.99), 0x7bff);
  assert.is(floatToHalf(65520), 0x7c00);
  assert.is(floatToBfloat(1 + 2 ** -8), 0x3f80);
  assert.is(floatToBfloat(1 + 3 * 2 ** -8), 0x3f82);
  assert.is(floatToBfloat(Math.fround(1 + 2 ** -8 + 2 ** -20)), 0x3f81);
  assert.ok(floatToBfloat(NaN) > 0x7f80);
});

test('reads what another writer wrote: F32, F16 and BF16 with known values', () => {
  const f32 = openSafetensors(join(MODELS, 'gpt2-tiny/model.safetensors'));
  const name = 'transformer.h.1.mlp.c_fc.weight';
  const { begin, shape } = f32.tensors.get(name)!;
  assert.equal(shape, [48, 192]);
  const raw = readFileSync(f32.path);
  const values = f32.read(name);
  assert.is(values.length, 48 * 192);
  for (const i of [0, 1, 777, 9215]) assert.is(values[i], raw.readFloatLE(begin + 4 * i));
  assert.equal(f32.read(name, 100, 3), values.slice(100, 103));
  assert.equal(f32.metadata, { format: 'pt' });
  f32.close();

  const f16 = openSafetensors(join(MODELS, 'variants/llama3-rope-headdim-f16/model.safetensors'));
  const half = f16.tensors.get('model.norm.weight')!;
  const bytes = readFileSync(f16.path);
  const norm = f16.read('model.norm.weight');
  norm.forEach((v, i) => assert.is(v, halfToFloat(bytes.readUInt16LE(half.begin + 2 * i))));
  f16.close();
});

test('round trip of every type, names in order, aligned header, same bytes twice', async () => {
  const random = seeded(1);
  const weights = Float32Array.from({ length: 35 }, () => (random(2000) - 1000) / 512);
  const entries = [
    { name: 'b', shape: [5, 7], data: weights },
    { name: 'a', shape: [35], dtype: 'F16' as const, data: () => weights },
    { name: 'ä/1', shape: [7, 5], dtype: 'BF16' as const, data: async () => weights },
    { name: 'u', shape: [3], dtype: 'U8' as const, data: Uint8Array.of(1, 2, 255) },
    { name: 'i', shape: [2], dtype: 'I32' as const, data: Int32Array.of(-1, 2 ** 31 - 1) },
    { name: 'd', shape: [], dtype: 'F64' as const, data: Float64Array.of(Math.PI) },
    { name: 'none', shape: [0, 4], data: new Float32Array(0) },
  ];
  const path = join(dir, 'round.safetensors');
  await writeSafetensors(path, entries, { format: 'pt', step: '7' });
  const file = openSafetensors(path);
  assert.equal([...file.names].sort(), ['a', 'b', 'd', 'i', 'none', 'u', 'ä/1']);
  assert.equal(file.metadata, { format: 'pt', step: '7' });
  assert.is(readFileSync(path).readUInt32LE(0) % 8, 0);
  assert.equal(file.read('b'), weights);
  assert.equal(file.read('a'), weights, 'multiples of 1/512 below 2 are halves');
  file.read('ä/1').forEach((v, i) => assert.ok(Math.abs(v - weights[i]!) <= Math.abs(weights[i]!) * 2 ** -8));
  assert.equal(file.readBytes('u'), Uint8Array.of(1, 2, 255));
  assert.is(Buffer.from(file.readBytes('i')).readInt32LE(4), 2 ** 31 - 1);
  assert.is(file.read('d')[0], Math.fround(Math.PI));
  assert.is(file.read('none').length, 0);
  assert.throws(() => file.read('u'), /U8/);
  assert.throws(() => file.read('zz'), /no tensor "zz"/);
  assert.throws(() => file.read('b', 30, 6), RangeError);
  file.close();
  const again = join(dir, 'again.safetensors');
  await writeSafetensors(again, [...entries].reverse(), { format: 'pt', step: '7' });
  assert.ok(readFileSync(path).equals(readFileSync(again)));
});

test('a value too large for the narrower type is refused, infinity and NaN are found when read', async () => {
  const path = join(dir, 'large.safetensors');
  try {
    await writeSafetensors(path, [{ name: 'w', shape: [2], dtype: 'F16', data: Float32Array.of(1, 1e6) }]);
    assert.unreachable();
  } catch (error) {
    assert.instance(error, RunError);
    assert.match((error as Error).message, /tensor w has the value 1000000, too large for F16/);
  }
  assert.throws(() => checkFinite(Float32Array.of(0, NaN), 'w', 'f'), /^f: tensor "w" has the value NaN at index 1$/);
  assert.throws(() => checkFinite(Float32Array.of(-Infinity), 'w', 'f'), /-Infinity at index 0/);
  checkFinite(Float32Array.of(3.4e38, -3.4e38, 0), 'w', 'f');
});

test('hostile headers are refused with the tensor named', () => {
  refused(join(dir, 'absent.safetensors'), /no such file/);
  refused(dir, /not a regular file/);
  const empty = join(dir, 'empty.safetensors');
  writeFileSync(empty, '');
  refused(empty, /0 bytes, too few/);
  const pointer = join(dir, 'pointer.safetensors');
  writeFileSync(pointer, `version https://git-lfs.github.com/spec/v1\noid sha256:${'4d7a'.repeat(16)}\nsize 538090408\n`);
  refused(pointer, /pointer\.safetensors: is a Git LFS pointer/);
  refused(craft('{}', 0, 100n), /header length 100 goes beyond/);
  refused(craft('{}', 0, 2n ** 63n), /header length 92233720/);
  refused(craft('{"a":'), /header: is not valid JSON/);
  refused(craft('[1,2]   '), /must be a JSON object/);
  refused(craft(Uint8Array.of(0x7b, 0xff, 0x7d)), /UTF-8/);
  refused(craft('['.repeat(200_000)), /not valid JSON/);
  refused(craft(`{"a":${'['.repeat(100_000)}${']'.repeat(100_000)}}`), /tensor "a"/);
  const json = (value: unknown, data = 0) => craft(JSON.stringify(value), data);
  refused(json({ a: entry('F32', [2], 0, 8) }, 4), /tensor "a": data_offsets \[0,8\] lie outside the 4 bytes/);
  refused(json({ a: entry('F32', [2], 8, 0) }, 8), /lie outside/);
  refused(json({ a: entry('F32', [2], 0, 8), b: entry('F32', [2], 4, 12) }, 12), /tensor "b": begins .* overlaps/);
  refused(json({ a: entry('F32', [2], 0, 8), b: entry('F32', [1], 12, 16) }, 16), /tensor "b": begins .* hole/);
  refused(json({ a: entry('F32', [2], 0, 8) }, 9), /1 bytes that belong to no tensor/);
  refused(json({ a: entry('F32', [3], 0, 8) }, 8), /F32 of shape \[3\] has 12 bytes/);
  refused(json({ a: entry('Q4', [2], 0, 8) }, 8), /unknown dtype "Q4"/);
  refused(json({ a: entry('constructor', [2], 0, 8) }, 8), /unknown dtype/);
  refused(json({ a: { shape: [2], data_offsets: [0, 8] } }, 8), /unknown dtype nothing/);
  refused(json({ a: entry('F32', [-2], 0, 8) }, 8), /shape must be/);
  refused(json({ a: entry('F32', [1.5], 0, 6) }, 6), /shape must be/);
  refused(json({ a: entry('F32', [2 ** 30, 2 ** 30, 2 ** 30], 0, 8) }, 8), /tensor "a"/);
  refused(craft('{"a":{"dtype":"F32","shape":[9007199254740993],"data_offsets":[0,4]}}', 4), /shape must be/);
  refused(craft('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1e300]}}', 4), /data_offsets must be/);
  refused(json({ a: null }), /tensor "a": entry must be an object/);
  refused(json({ __metadata__: { format: 1 } }), /__metadata__ "format" must be a string/);
  refused(json({ __metadata__: [] }), /__metadata__ must be an object/);
  refused(
    craft(
      '{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
    ),
    /header has "a" twice/,
  );
  refused(
    craft('{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"shap\\u0065":[0]}}'),
    /header has "shape" twice/,
  );
  refused(json({ ['x'.repeat(5000)]: null }), /tensor "x{77}…"/);
  refused(json({ 'a\nb': null }), /tensor "a\\nb"/);
  // A header of many tensors is refused quickly as well.
  const many = Object.fromEntries(Array.from({ length: 60_000 }, (_, i) => [`t${i}`, entry('F32', [1], 0, 4)]));
  refused(json(many, 4), /overlaps/);
});

test('shards: index and files must agree', () => {
  const good = join(MODELS, 'variants/llama-bf16-sharded');
  const source = openShards(join(good, 'model.safetensors.index.json'));
  assert.is(source.names.length, 21);
  assert.is(source.read('lm_head.weight').length, 640);
  assert.match(source.fileOf('lm_head.weight'), /model-00003-of-00003/);
  source.close();

  const copy = join(dir, 'shards');
  mkdirSync(copy);
  for (const name of readdirSync(good)) copyFileSync(join(good, name), join(copy, name));
  const index = join(copy, 'model.safetensors.index.json');
  const map = (JSON.parse(readFileSync(index, 'utf8')) as { weight_map: Record<string, string> }).weight_map;
  const fails = (weightMap: unknown, pattern: RegExp) => {
    writeFileSync(index, JSON.stringify({ weight_map: weightMap }));
    assert.throws(
      () => openShards(index),
      (error: unknown) => error instanceof UsageError && pattern.test(error.message),
    );
  };
  fails(undefined, /weight_map must be an object, but is nothing/);
  fails(
    { ...map, 'model.norm.weight': 'model-00001-of-00003.safetensors' },
    /"model.norm.weight" is not in model-00001/,
  );
  fails({ ...map, 'model.norm.weight': '../model.safetensors' }, /is not the name of a safetensors file/);
  fails({ ...map, 'model.norm.weight': 7 }, /7 is not the name/);
  fails({ ...map, x: 'gone.safetensors' }, /names gone.safetensors, which does not exist/);
  const { 'model.norm.weight': _, ...less } = map;
  fails(less, /tensor "model.norm.weight" is not listed/);
  writeFileSync(index, JSON.stringify({ weight_map: map }));
  truncateSync(join(copy, 'model-00002-of-00003.safetensors'), 4000);
  assert.throws(() => openShards(index), /model-00002-of-00003.*lie outside/);
});

test(`${FUZZ_CASES} mutated files are read or refused, never crash`, () => {
  const good = readFileSync(join(MODELS, 'variants/qwen2-rm/model.safetensors'));
  const random = seeded(20);
  const path = join(dir, 'mutated.safetensors');
  let opened = 0;
  for (let n = 0; n < FUZZ_CASES; n++) {
    writeFileSync(path, mutate(good, random, 1456));
    const started = performance.now();
    try {
      const file = openSafetensors(path);
      opened++;
      for (const [name, { dtype }] of file.tensors) if (/F/.test(dtype) && !/F8/.test(dtype)) file.read(name);
      file.close();
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      assert.ok(error.message.startsWith(path) && !error.message.includes('\n'), error.message);
    }
    assert.ok(performance.now() - started < 1000);
  }
  assert.ok(opened > 0 && opened < FUZZ_CASES, 'mutations hit both data and header');
});

test.run();
