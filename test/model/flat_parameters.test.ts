import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { halvesOf, halfToFloat } from '../../src/files/float_formats.ts';
import { FlatParameters, type Block } from '../../src/model/flat_parameters.ts';
import { readFloats } from '../../src/gpu/tensor.ts';
import { closeAfterTests, halfTest, openForTests } from '../gpu/device.ts';

await openForTests();
test.after(closeAfterTests);

/** A matrix on its own, of `stride` numbers a row. */
const matrix = (key: string, rows: number, cols: number, stride: number): Block =>
  ({ key, parts: [{ name: key, firstRow: 0, rows, firstCol: 0, cols }], rows, cols, stride, decay: true, half: true });

/** Blocks of 5.8 million numbers: of padded rows, of two tensors below one another, of two beside one another, and a vector. */
const BLOCKS: Block[] = [
  matrix('padded', 33_000, 130, 132),
  { ...matrix('fused', 700, 1024, 1024), parts: [0, 300].map((firstRow) => ({ name: `fused.${firstRow}`, firstRow, rows: firstRow ? 400 : 300, firstCol: 0, cols: 1024 })) },
  { ...matrix('diagonal', 700, 1024, 1024), parts: [0, 1].map((i) => ({ name: `diagonal.${i}`, firstRow: 350 * i, rows: 350, firstCol: 500 * i, cols: 500 })) },
  { ...matrix('bias', 777, 1, 1), decay: false, half: false },
];
const PLAN = BLOCKS.flatMap(({ parts }) => parts.map(({ name, rows, cols }) => ({ name, shape: [rows, cols] })));

/** Numbers of a tensor, each another than those around it and in other tensors; none is zero. */
function valuesOf(name: string, from: number, count: number, factor = 1): Float32Array {
  const values = new Float32Array(count);
  for (let i = 0; i < count; i++) values[i] = factor * (((from + i) % 1009) + 1 + name.length / 64);
  return values;
}
const same = (a: Float32Array, b: Float32Array): boolean => Buffer.compare(new Uint8Array(a.buffer, a.byteOffset, a.byteLength), new Uint8Array(b.buffer)) === 0;
const sizeOf = (name: string): number => PLAN.find((t) => t.name === name)!.shape.reduce((a, b) => a * b, 1);

// A binding of 2 MB cuts the matrices into slices, one of 1 GB does not; parts of 16 MB cut the chunk then.
for (const limit of [2 ** 21, undefined]) {
  test(`values come back as they were written, binding limit ${limit ?? 'of the device'}`, async () => {
    const parameters = new FlatParameters(PLAN, BLOCKS, true, 'f32', limit);
    assert.is(parameters.chunks.length > 1, limit !== undefined);
    const asked = new Map<string, number>();
    let most = 0;
    parameters.fill((name, from, count) => {
      most = Math.max(most, count);
      assert.is(from, asked.get(name) ?? 0, `${name} is read from its beginning to its end`);
      asked.set(name, from + count);
      return valuesOf(name, from, count);
    });
    for (const { name } of PLAN) assert.is(asked.get(name), sizeOf(name), name);
    assert.ok(most <= 1 << 22, `${most} numbers at once`);
    for (const [name, values] of await parameters.save()) assert.ok(same(values, valuesOf(name, 0, sizeOf(name))), name);
    // What none of the tensors holds is zero: columns of padding, and the blocks beside the diagonal.
    let filled = 0;
    for (const { values } of parameters.chunks) for (const x of await readFloats(values)) if (x !== 0) filled++;
    assert.is(filled, parameters.count);
    parameters.dispose();
  });
}

test('moments are filled and read in the same layout, and leave the values alone', async () => {
  const parameters = new FlatParameters(PLAN, BLOCKS, true);
  parameters.load((name) => valuesOf(name, 0, sizeOf(name)));
  const moments = parameters.like();
  parameters.load((name) => valuesOf(name, 0, sizeOf(name), 2), moments);
  const read = parameters.reader(moments);
  for (const { name } of [...PLAN].reverse()) assert.ok(same(await read(name), valuesOf(name, 0, sizeOf(name), 2)), name);
  assert.ok(same((await parameters.save()).get('padded')!, valuesOf('padded', 0, sizeOf('padded'))));
  parameters.dispose();
});

test('a number that is not finite is found wherever it lies, and no file is written with it', async () => {
  const parameters = new FlatParameters(PLAN, BLOCKS, true);
  for (const [broken, index] of [['padded', 33_000 * 130 - 1], ['diagonal.1', 0], ['bias', 776]] as const) {
    parameters.load((name) => {
      const values = valuesOf(name, 0, sizeOf(name));
      if (name === broken) values[index] = NaN;
      return values;
    });
    assert.is(await parameters.broken(), broken);
    const entries = parameters.toWrite((name) => new Error(`${name} is broken`));
    for (const { name, data } of entries) {
      const outcome = await data().then(() => 'read', (error: Error) => error.message);
      assert.is(outcome, name === broken ? `${broken} is broken` : 'read');
    }
  }
  parameters.dispose();
});

halfTest('f16 copies of trained matrices, and matrices stored as f16, hold the nearest halves in all parts', async () => {
  for (const trainable of [true, false]) {
    const parameters = new FlatParameters(PLAN, BLOCKS, trainable, 'f16');
    parameters.load((name) => valuesOf(name, 0, sizeOf(name)));
    const { values, half } = parameters.chunks[0];
    const stored = await readFloats(half ?? values);
    const first = PLAN[0].name;
    const [, cols] = PLAN[0].shape;
    for (const row of [0, 1, 31_775, 32_999]) {
      const expected = Float32Array.from(halvesOf(valuesOf(first, row * cols, cols)), halfToFloat);
      assert.equal(stored.subarray(row * 132, row * 132 + cols), expected, `row ${row}`);
    }
    parameters.dispose();
  }
});

test.run();
