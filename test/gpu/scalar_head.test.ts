import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { scalarHead } from '../../src/gpu/ops/scalar_head.ts';
import { copy } from '../../src/gpu/program.ts';
import { Tape } from '../../src/gpu/tape.ts';
import { persistent, readFloats, vector } from '../../src/gpu/tensor.ts';
import { matmulOf } from '../../src/self_test/reference/matmul.ts';
import {
  assertClose,
  closeAfterTests,
  column,
  compute,
  matrix,
  onEachVariant,
  openForTests,
  parameter,
  seeded,
} from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

async function run(h: Float32Array, w: Float32Array, dr: Float32Array, [gain, bias]: [number, number]) {
  const [cols, M] = [w.length, dr.length];
  const [H, weight, r, back] = [matrix(h, cols), parameter('w', matrix(w, cols)), vector(M), persistent(M, cols)];
  const [scores, dH] = await compute(() => {
    const tape = new Tape(true);
    tape.push([], () => copy(tape.take(H), back));
    scalarHead(tape, H, weight, column([gain, bias]), r, column(dr));
    tape.backward();
  }, [r, back]);
  return { scores, dH, dW: await readFloats(weight.grad) };
}

test('scores and gradients equal the float64 reference at odd sizes, with gain and bias', () =>
  onEachVariant(async (variant) => {
    const random = seeded(81);
    for (const [M, C] of [
      [1, 1],
      [3, 7],
      [7, 31],
      [8, 8],
      [9, 33],
      [31, 43],
      [129, 65],
      [300, 3],
    ]) {
      const [h, w, dr] = [random.normals(M * C), random.normals(C), random.normals(M)];
      for (const [gain, bias] of [
        [1, 0],
        [1, -2.5],
        [0.5, 3],
      ] as [number, number][]) {
        const got = await run(h, w, dr, [gain, bias]);
        const label = `${variant}, ${M} × ${C}, gain ${gain}`;
        assertClose(
          got.scores,
          matmulOf('nt', h, w, M, 1, C).map((s) => gain * s + bias),
          label,
          1e-6,
          1e-6,
        );
        assertClose(
          got.dH,
          matmulOf('nn', dr, w, M, C, 1).map((g) => gain * g),
          `${label}: dh`,
          1e-6,
        );
        // Training has gain 1, for which the weight's gradient is stated.
        if (gain === 1) assertClose(got.dW, matmulOf('tn', dr, h, 1, C, M), `${label}: dw`, 2e-6, 1e-6);
      }
    }
  }));

test('a score has the same bits alone and beside others', () =>
  onEachVariant(async (variant) => {
    const random = seeded(82);
    const [h, w] = [random.normals(17 * 43), random.normals(43)];
    const all = await run(h, w, new Float32Array(17), [1, 0.25]);
    for (const m of [0, 7, 8, 16]) {
      const alone = await run(h.slice(m * 43, (m + 1) * 43), w, new Float32Array(1), [1, 0.25]);
      assert.is(alone.scores[0], all.scores[m], variant);
    }
  }));

test.run();
