import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type HeadShape, rotary } from '../../src/gpu/ops/attention.ts';
import { copy } from '../../src/gpu/program.ts';
import { Tape } from '../../src/gpu/tape.ts';
import { persistent, scratch } from '../../src/gpu/tensor.ts';
import { rotaryTable } from '../../src/model/rotary.ts';
import type { ModelConfig } from '../../src/model/config.ts';
import { dot } from '../reference/finite_difference.ts';
import { rotaryOf } from '../../src/self_test/reference/rotary.ts';
import { assertClose, closeAfterTests, column, compute, matrix, openForTests, seeded } from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

const CONTEXT = 200;
const THETA = 1e4;
const SHAPES: HeadShape[] = [
  { heads: 4, kvHeads: 2, headDim: 4 },
  { heads: 3, kvHeads: 3, headDim: 10 },
  { heads: 4, kvHeads: 1, headDim: 16 },
  { heads: 1, kvHeads: 1, headDim: 64 },
];

/** qkv turned in place, and a gradient turned back. */
async function turn(qkv: Float32Array, dy: Float32Array, shape: HeadShape, positions: number[]) {
  const cols = (shape.heads + 2 * shape.kvHeads) * shape.headDim;
  const table = matrix(
    rotaryTable({ context: CONTEXT, headDim: shape.headDim, ropeTheta: THETA } as ModelConfig),
    shape.headDim,
    'f32',
    shape.headDim,
  );
  const [x, at, given, back] = [
    matrix(qkv, cols),
    column(positions, 'u32'),
    matrix(dy, cols),
    persistent(positions.length, cols),
  ];
  const [y, gradient] = await compute(() => {
    const tape = new Tape(true);
    tape.push([], () => copy(tape.take(x), back));
    rotary(tape, x, shape, table, at);
    const g = scratch(given.rows, cols);
    copy(given, g);
    tape.give(x, g);
    tape.backward();
  }, [x, back]);
  return { y, gradient };
}

test('queries and keys turn by their positions, values do not, gradients turn back', async () => {
  const random = seeded(31);
  for (const shape of SHAPES) {
    const cols = (shape.heads + 2 * shape.kvHeads) * shape.headDim;
    for (const positions of [[0], [199], [0, 1, 2, 0, 1, 7, 31, 33, 65, 129, 199]]) {
      const [qkv, dy] = [random.normals(positions.length * cols), random.normals(positions.length * cols)];
      const got = await turn(qkv, dy, shape, positions);
      const label = `${shape.heads}/${shape.kvHeads} of ${shape.headDim}, ${positions.length} tokens`;
      assertClose(got.y, rotaryOf(qkv, shape, THETA, positions), label, 3e-7);
      assertClose(got.gradient, rotaryOf(dy, shape, THETA, positions, -1), `${label}: gradient`, 3e-7);
    }
  }
});

test('position 0 changes no bit, and a token’s result does not depend on the others', async () => {
  const random = seeded(32);
  const shape = SHAPES[0];
  const cols = 32;
  const qkv = random.normals(3 * cols);
  const all = await turn(qkv, qkv, shape, [0, 5, 17]);
  assert.equal(all.y.slice(0, cols), qkv.slice(0, cols));
  assert.equal((await turn(qkv.slice(cols, 2 * cols), qkv.slice(0, cols), shape, [5])).y, all.y.slice(cols, 2 * cols));
});

test('the reference’s gradient is its transpose: dy·R(x) = R⁻¹(dy)·x', () => {
  const random = seeded(33);
  const shape = SHAPES[1];
  const [x, dy] = [random.normals(90), random.normals(90)];
  assertClose(
    [dot(dy, rotaryOf(x, shape, THETA, [3, 77]))],
    [dot(rotaryOf(dy, shape, THETA, [3, 77], -1), x)],
    'transpose',
    1e-12,
  );
});

test.run();
