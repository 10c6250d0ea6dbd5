import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type DropoutMask, dropout, dropoutAdd } from '../../src/gpu/ops/dropout.ts';
import { persistent } from '../../src/gpu/tensor.ts';
import { keeps } from '../../src/self_test/reference/dropout.ts';
import { assertClose, closeAfterTests, column, compute, matrix, openForTests, seeded } from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

const state: [number, number] = [4294967295, 17];
const tokensOf = (n: number): [number, number][] => Array.from({ length: n }, (_, i) => [i * 977 + 3, i % 11]);

function maskFor(tokens: [number, number][], site: number, rate: number): DropoutMask {
  return { tokens: matrix(tokens.flat(), 2, 'u32', 2), state: column(state, 'u32'), site, rate };
}

test('equals the reference for odd shapes; the gradient has the same mask', async () => {
  const random = seeded(1);
  for (const [rows, cols, rate] of [
    [1, 1, 0.5],
    [7, 9, 0.2],
    [65, 63, 0.9],
    [3, 1000, 0.1],
  ] as const) {
    const [x, residual, dy] = [random.normals(rows * cols), random.normals(rows * cols), random.normals(rows * cols)];
    const tokens = tokensOf(rows);
    const mask = maskFor(tokens, 5, rate);
    const [xt, rt, dyt] = [matrix(x, cols), matrix(residual, cols), matrix(dy, cols)];
    const [out, dx] = [persistent(rows, cols), persistent(rows, cols)];
    const got = await compute(() => {
      dropoutAdd(xt, rt, out, mask);
      dropout(dyt, dx, mask);
    }, [out, dx]);
    const m = Array.from(x, (_, i) => keeps(tokens[Math.floor(i / cols)], i % cols, 5, state, rate) / (1 - rate));
    assertClose(
      got[0],
      m.map((k, i) => residual[i] + k * x[i]),
      'out',
      2e-7,
    );
    assertClose(
      got[1],
      m.map((k, i) => k * dy[i]),
      'gradient',
      2e-7,
    );
    // The op is linear in x: its directional derivative along dy is the inner product with the gradient.
    const inner = (a: ArrayLike<number>, b: ArrayLike<number>) => Array.from(a).reduce((s, v, i) => s + v * b[i], 0);
    assertClose(
      [inner(got[1], x)],
      [
        inner(
          Array.from(got[0], (v, i) => v - residual[i]),
          dy,
        ),
      ],
      'adjoint',
      1e-4,
      1e-5,
    );
  }
});

test('keeps 1 − rate of the numbers, another share of them at every site and step', async () => {
  const ones = matrix(new Array(200 * 500).fill(1), 500);
  const tokens = tokensOf(200);
  const run = async (site: number) => {
    const mask = maskFor(tokens, site, 0.2);
    const out = persistent(200, 500);
    return (await compute(() => dropout(ones, out, mask), [out]))[0];
  };
  const [a, b] = [await run(0), await run(1)];
  const kept = a.filter((v) => v > 0).length / a.length;
  assert.ok(Math.abs(kept - 0.8) < 4 * Math.sqrt(0.16 / a.length), `kept ${kept}`);
  const both = a.filter((v, i) => v > 0 && b[i] > 0).length / a.length;
  assert.ok(Math.abs(both - 0.64) < 4 * Math.sqrt((0.64 * 0.36) / a.length), `kept at both sites ${both}`);
});

test('a token’s mask does not depend on the rows beside it; rate 0 keeps all', async () => {
  const x = seeded(2).normals(8 * 24);
  const run = async (from: number, to: number, rate: number) => {
    const mask = maskFor(tokensOf(8).slice(from, to), 3, rate);
    const xt = matrix(x.slice(from * 24, to * 24), 24);
    const out = persistent(to - from, 24);
    return [...(await compute(() => dropout(xt, out, mask), [out]))[0]];
  };
  const whole = await run(0, 8, 0.3);
  assert.equal([...(await run(0, 3, 0.3)), ...(await run(3, 8, 0.3))], whole);
  assert.equal(await run(0, 8, 0), [...x]);
});

test.run();
