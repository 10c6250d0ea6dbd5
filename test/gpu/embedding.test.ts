import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { embedding, type Occurrences, occurrencesOf } from '../../src/gpu/ops/embedding.ts';
import { readFloats } from '../../src/gpu/tensor.ts';
import { embeddingGradOf, embeddingOf } from '../../src/self_test/reference/embedding.ts';
import {
  assertClose,
  closeAfterTests,
  column,
  differentiate,
  matrix,
  openForTests,
  parameter,
  seeded,
  unpadded,
  withPadding,
} from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

/** Occurrences of the first `count` ids, with runs to spare. */
function upload(ids: number[], count = ids.length): Occurrences {
  const { runs, order } = occurrencesOf(Uint32Array.from(ids), count, ids.length + 3);
  return { runs: matrix(runs, 4, 'u32'), order: column(order, 'u32') };
}

test('rows and gradients equal the reference, with and without learned positions', async () => {
  const random = seeded(61);
  for (const [tokens, cols, V] of [
    [1, 1, 1],
    [3, 7, 2],
    [9, 8, 40],
    [31, 43, 9],
    [129, 33, 65],
    [65, 130, 3],
  ]) {
    const ids = Array.from({ length: tokens }, () => random.below(V));
    const at = Array.from({ length: tokens }, (_, i) => i % 7);
    const [table, places, dy] = [random.normals(V * cols), random.normals(7 * cols), random.normals(tokens * cols)];
    const words = parameter('tokens', matrix(table, cols));
    const positions = parameter('positions', matrix(places, cols));
    for (const learned of [undefined, { at: column(at, 'u32'), positions, runs: upload(at) }]) {
      const label = `${tokens} tokens of ${V} × ${cols}, ${learned ? 'learned' : 'no'} positions`;
      const before = await readFloats(words.grad);
      const got = await differentiate(
        (tape) => embedding(tape, column(ids, 'u32'), words, upload(ids), learned),
        matrix(dy, cols),
        [],
      );
      assertClose(got.y, embeddingOf(ids, table, cols, learned && { at, table: places }), label, 1e-7);
      const after = unpadded(await readFloats(withPadding(words.grad)), words.grad, label);
      // Added to what was there: the second case's gradient is the sum of both.
      assertClose(
        after,
        embeddingGradOf(ids, dy, cols, V).map((g, i) => g + before[i]),
        `${label}: gradient`,
        1e-6,
      );
      if (learned)
        assertClose(await readFloats(positions.grad), embeddingGradOf(at, dy, cols, 7), `${label}: positions`, 1e-6);
    }
  }
});

test('tokens behind the count are padding: they have a row and no gradient', async () => {
  const random = seeded(62);
  const ids = [4, 0, 4, 2, 0, 0, 0, 0];
  const table = random.normals(5 * 10);
  const words = parameter('tokens', matrix(table, 10));
  const dy = random.normals(80);
  const got = await differentiate(
    (tape) => embedding(tape, column(ids, 'u32'), words, upload(ids, 4)),
    matrix(dy, 10),
    [],
  );
  assertClose(got.y, embeddingOf(ids, table, 10), 'rows', 1e-7);
  assertClose(await readFloats(words.grad), embeddingGradOf(ids, dy, 10, 5, 4), 'gradient', 1e-6);
});

test('occurrences list every token once, by id and in order', () => {
  const { runs, order } = occurrencesOf(Uint32Array.of(7, 1, 7, 7, 0, 1, 9), 6, 4);
  assert.equal([...runs], [0, 0, 1, 0, 1, 1, 3, 0, 7, 3, 6, 0, 0, 0, 0, 0]);
  assert.equal([...order.subarray(0, 6)], [4, 1, 5, 0, 2, 3]);
});

test('a thousand tokens of one id repeat bit for bit', async () => {
  const random = seeded(63);
  const ids = new Array(1000).fill(1);
  const dy = random.normals(8000);
  const gradients = [];
  for (let i = 0; i < 2; i++) {
    const words = parameter('tokens', matrix(new Float32Array(16), 8));
    await differentiate((tape) => embedding(tape, column(ids, 'u32'), words, upload(ids)), matrix(dy, 8), []);
    gradients.push(await readFloats(words.grad));
  }
  assert.equal(gradients[0], gradients[1]);
  assertClose(gradients[0], embeddingGradOf(ids, dy, 8, 2), 'sum', 2e-6);
});

test.run();
