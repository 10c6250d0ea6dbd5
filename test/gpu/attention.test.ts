import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { gpu, withGpu, withRegisters, withSubgroup } from '../../src/gpu/device.ts';
import { attention, attentionTiles, type HeadShape } from '../../src/gpu/ops/attention.ts';
import { splitOf } from '../../src/gpu/ops/attention_forms.ts';
import type { Tape } from '../../src/gpu/tape.ts';
import type { Tensor } from '../../src/gpu/tensor.ts';
import { attentionGradOf, attentionOf, type Span } from '../../src/self_test/reference/attention.ts';
import { dot, finiteDifference } from '../reference/finite_difference.ts';
import { assertClose, closeAfterTests, differentiate, matrix, onEachVariant, openForTests, seeded } from './device.ts';

process.env.RLHF_TEST_FORMS ??= 'own'; // attention_memory.test.ts has the others
test.before(openForTests);
test.after(closeAfterTests);

/**
 * Every form: those of each subgroup size, that whose lanes add up by shuffles where the size is not fixed, and those for few registers. Where lanes
 * share a head by fours at most, the file with narrow vectors runs them.
 */
async function onEachForm(work: (variant: string) => Promise<void>): Promise<void> {
  const { leastSubgroup } = gpu();
  await onEachVariant(work);
  if (process.env.RLHF_TEST_FORMS === 'own') return withSubgroup(0, () => withRegisters(64, () => work('64 registers')), leastSubgroup);
  if (leastSubgroup >= 4) await withSubgroup(0, () => work('shuffles'), leastSubgroup);
  await withSubgroup(0, () => withRegisters(128, () => work('128 registers')), leastSubgroup);
}

/** Head sizes that are and are not multiples of 4, with 1, 2, 3 and 4 query heads to a key head. */
const SHAPES: HeadShape[] = [
  { heads: 4, kvHeads: 2, headDim: 8 },
  { heads: 3, kvHeads: 1, headDim: 6 },
  { heads: 1, kvHeads: 1, headDim: 4 },
  { heads: 3, kvHeads: 3, headDim: 10 },
  { heads: 4, kvHeads: 1, headDim: 16 },
  { heads: 2, kvHeads: 1, headDim: 20 },
  { heads: 2, kvHeads: 2, headDim: 64 },
];
const columns = ({ heads, kvHeads, headDim }: HeadShape): number => (heads + 2 * kvHeads) * headDim;

/** Rows of these lengths, one after the other. */
const spansOf = (lengths: readonly number[]): Span[] =>
  lengths.map((length, i) => ({ first: lengths.slice(0, i).reduce((a, b) => a + b, 0), length }));

/** Attention over a pack and its gradient; three tiles more than needed, as a bucket has. */
async function run(qkv: Float32Array, shape: HeadShape, rows: readonly Span[], dO: Float32Array) {
  const width = shape.heads * shape.headDim;
  const x = matrix(qkv, columns(shape));
  const tiles = attentionTiles(rows);
  const T = matrix([...tiles, ...new Array(12).fill(0)], 4, 'u32');
  const op = (tape: Tape): Tensor => attention(tape, x, shape, T);
  const { y, gradients } = await differentiate(op, matrix(dO, width), [x]);
  return { o: y, dqkv: gradients[0] };
}

for (const shape of SHAPES) {
  const name = `${shape.heads}/${shape.kvHeads} heads of ${shape.headDim}`;
  test(`${name}: packed rows of odd lengths equal the float64 reference`, () =>
    onEachForm(async (variant) => {
      if (shape.headDim === 64 && /subgroup 0|few/.test(variant)) return; // minutes to compile on a software driver, and heads of 20 go the same ways
      const random = seeded(shape.headDim);
      const packs = shape.headDim === 64 ? [[1], [17, 3, 65]] : [[1], [3, 1, 7, 8, 9], [65, 16, 17, 31, 33], [129]];
      for (const lengths of packs) {
        const rows = spansOf(lengths);
        const tokens = lengths.reduce((a, b) => a + b);
        const qkv = random.normals(tokens * columns(shape));
        const dO = random.normals(tokens * shape.heads * shape.headDim);
        const got = await run(qkv, shape, rows, dO);
        assertClose(got.o, attentionOf(qkv, shape, rows), `${variant}, rows ${lengths}`, 2e-6);
        assertClose(got.dqkv, attentionGradOf(qkv, shape, rows, dO), `${variant}, rows ${lengths}: gradient`, 5e-6);
      }
    }));
}

const SHAPE = SHAPES[0];

for (const shape of [SHAPES[0], SHAPES[1]]) {
  test(`${shape.heads}/${shape.kvHeads} heads of ${shape.headDim}: rows that go on from the same tokens have the bits of whole rows, and their gradients`, () =>
    onEachForm(async (variant) => {
      const random = seeded(31 + shape.headDim);
      const [cols, width] = [columns(shape), shape.heads * shape.headDim];
      for (const { before, tokens, own } of [
        { before: 0, tokens: 1, own: [1, 2] },
        { before: 3, tokens: 9, own: [8, 1, 30] },
        { before: 70, tokens: 67, own: [5, 66, 3, 64] },
      ]) {
        const count = before + tokens + own.reduce((a, b) => a + b);
        const [qkv, dO] = [random.normals(count * cols), random.normals(count * width)];
        const starts = own.map((_, i) => before + tokens + own.slice(0, i).reduce((a, b) => a + b, 0));
        const spans: Parameters<typeof attentionTiles>[0] = [
          ...(before > 0 ? [{ first: 0, length: before }] : []),
          { first: before, length: tokens, followers: count - before - tokens },
          ...own.map((length, i) => ({ first: starts[i]! - tokens, length: tokens + length, shared: { tokens, above: starts[i]! - tokens - before } })),
        ];
        const got = await run(qkv, shape, spans, dO);

        // The same as whole rows, the first tokens' results and gradients being asked for once.
        const of = (values: Float32Array, from: number, to: number, each: number): Float32Array => values.slice(from * each, to * each);
        const beginning = { qkv: of(qkv, before, before + tokens, cols), dO: of(dO, before, before + tokens, width) };
        const rows = own.map((length, i) => [starts[i]!, starts[i]! + length] as const);
        const whole = (values: Float32Array, each: number, first: (i: number) => Float32Array): Float32Array => Float32Array.from([
          ...of(values, 0, before, each), ...rows.flatMap(([from, to], i) => [...first(i), ...of(values, from, to, each)])]);
        const lengths = [...(before > 0 ? [before] : []), ...own.map((length) => tokens + length)];
        const expanded = {
          qkv: whole(qkv, cols, () => beginning.qkv),
          dO: whole(dO, width, (i) => (i === 0 ? beginning.dO : new Float32Array(tokens * width))),
        };
        const expected = await run(expanded.qkv, shape, spansOf(lengths), expanded.dO);
        const label = `${variant}, ${tokens} tokens and ${own}`;
        const at = (i: number): number => before + rows.slice(0, i).reduce((sum, [from, to]) => sum + tokens + to - from, 0);
        assert.equal(of(got.o, 0, before + tokens, width), of(expected.o, 0, before + tokens, width), `${label}: the beginning`);
        const sums = of(expected.dqkv!, before, before + tokens, cols);
        rows.forEach(([from, to], i) => {
          const begin = at(i) + tokens;
          assert.equal(of(got.o, from, to, width), of(expected.o, begin, begin + to - from, width), `${label}: row ${i}`);
          assertClose(of(got.dqkv!, from, to, cols), of(expected.dqkv!, begin, begin + to - from, cols), `${label}: gradient of row ${i}`, 5e-6);
          if (i > 0) of(expected.dqkv!, at(i), begin, cols).forEach((x, n) => (sums[n]! += x));
        });
        assertClose(of(got.dqkv!, before, before + tokens, cols), sums, `${label}: gradient of the beginning`, 5e-6);
      }
    }));
}

test('a row of 2,049 tokens, beside others, equals the float64 reference, forward and gradient', () =>
  onEachForm(async (variant) => {
    const shape: HeadShape = { heads: 1, kvHeads: 1, headDim: 4 };
    const random = seeded(21);
    const rows = spansOf([5, 2049, 1]);
    const qkv = random.normals(2055 * columns(shape));
    const dO = random.normals(2055 * shape.headDim);
    const got = await run(qkv, shape, rows, dO);
    // Sums of up to 2,049 terms instead of about 100: a few times the rounding allowed above.
    assertClose(got.o, attentionOf(qkv, shape, rows), variant, 1e-5);
    assertClose(got.dqkv, attentionGradOf(qkv, shape, rows, dO), `${variant}: gradient`, 2e-5);
  }));

test('scores of ±1e4 give a hard choice and finite gradients', () =>
  onEachForm(async (variant) => {
    const random = seeded(7);
    const rows = spansOf([9, 20]);
    const qkv = random.normals(29 * columns(SHAPE), 100);
    const dO = random.normals(29 * SHAPE.heads * SHAPE.headDim);
    const got = await run(qkv, SHAPE, rows, dO);
    assertClose(got.o, attentionOf(qkv, SHAPE, rows), variant, 1e-4);
    assertClose(got.dqkv, attentionGradOf(qkv, SHAPE, rows, dO), `${variant}: gradient`, 1e-3);
  }));

test('a row has the same bits wherever it lies in a pack and whatever is beside it; a run repeats', () =>
  onEachForm(async (variant) => {
    const random = seeded(9);
    const [cols, width] = [columns(SHAPE), SHAPE.heads * SHAPE.headDim];
    const length = 37;
    const own = { qkv: random.normals(length * cols), dO: random.normals(length * width) };
    const alone = await run(own.qkv, SHAPE, spansOf([length]), own.dO);
    assert.equal(await run(own.qkv, SHAPE, spansOf([length]), own.dO), alone, 'repeats');
    for (const [before, after] of [
      [[1], []],
      [[5, 64], [3]],
      [[], [129, 2]],
      [[13, 50, 7], [7]],
    ]) {
      const start = before.reduce((a, b) => a + b, 0);
      const tokens = start + length + after.reduce((a, b) => a + b, 0);
      const qkv = random.normals(tokens * cols);
      const dO = random.normals(tokens * width);
      qkv.set(own.qkv, start * cols);
      dO.set(own.dO, start * width);
      const packed = await run(qkv, SHAPE, spansOf([...before, length, ...after]), dO);
      assert.equal(packed.o.slice(start * width, (start + length) * width), alone.o, `${variant}, after ${before}`);
      assert.equal(
        packed.dqkv.slice(start * cols, (start + length) * cols),
        alone.dqkv,
        `${variant}, after ${before}: gradient`,
      );
    }
  }));

test('a query does not see what comes after it', () =>
  onEachForm(async (variant) => {
    const random = seeded(10);
    const [cols, width] = [columns(SHAPE), SHAPE.heads * SHAPE.headDim];
    const qkv = random.normals(40 * cols);
    const dO = new Float32Array(40 * width);
    const whole = await run(qkv, SHAPE, spansOf([40]), dO);
    const cut = await run(qkv.slice(0, 21 * cols), SHAPE, spansOf([21]), dO.slice(0, 21 * width));
    assert.equal(whole.o.slice(0, 21 * width), cut.o, variant);
  }));

test('the reference’s gradient is its finite difference', () => {
  const random = seeded(12);
  const rows = spansOf([1, 4]);
  for (const shape of [
    { heads: 4, kvHeads: 2, headDim: 2 },
    { heads: 3, kvHeads: 1, headDim: 3 },
  ]) {
    const qkv = random.normals(5 * columns(shape));
    const dO = random.normals(5 * shape.heads * shape.headDim);
    assertClose(
      finiteDifference((x) => dot(dO, attentionOf(x, shape, rows)), qkv),
      attentionGradOf(qkv, shape, rows, dO),
      'gradient',
      1e-8,
    );
  }
});

test('a step takes as many keys as fit 8 KiB of workgroup memory, and heads that 8 keys do not fit for are refused', () => {
  const on = (bytes: number, headDim: number): number => {
    const limits = { ...gpu().adapter.limits, maxComputeWorkgroupStorageSize: bytes };
    return withGpu({ ...gpu(), subgroup: 0, leastSubgroup: 8, adapter: { limits } as GPUAdapter }, () => splitOf('attention', headDim).KEYS);
  };
  assert.equal([16, 32, 64, 80, 128, 256].map((headDim) => on(32768, headDim)), [32, 32, 16, 8, 8, 8]);
  assert.equal([64, 128].map((headDim) => withGpu({ ...gpu(), subgroup: 0, leastSubgroup: 0 }, () => splitOf('attention_grad_kv', headDim).BATCH)), [2, 2]);
  assert.throws(() => on(16384, 256), /^heads of 256 take 16448 bytes of workgroup memory, and the device has 16384$/);
});

test.run();
