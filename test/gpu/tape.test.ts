import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { gather } from '../../src/gpu/ops/gather.ts';
import { geluMlp, linear } from '../../src/gpu/ops/linear.ts';
import { norm } from '../../src/gpu/ops/norm.ts';
import { scalarHead } from '../../src/gpu/ops/scalar_head.ts';
import { copy, record } from '../../src/gpu/program.ts';
import { addInto, spread, Tape } from '../../src/gpu/tape.ts';
import { gpu } from '../../src/gpu/device.ts';
import { persistent, readFloats, scratch, type Tensor, valueOf } from '../../src/gpu/tensor.ts';
import { dot, finiteDifference } from '../reference/finite_difference.ts';
import { gelu, matmulOf } from '../../src/self_test/reference/matmul.ts';
import { normOf } from '../../src/self_test/reference/norm.ts';
import {
  assertClose,
  closeAfterTests,
  compute,
  differentiate,
  matrix,
  openForTests,
  padded,
  parameter,
  seeded,
} from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

const [N, C, F] = [9, 7, 13];

for (const layout of ['in_out', 'out_in'] as const) {
  for (const residual of [false, true]) {
    test(`linear ${layout}${residual ? ' with residual' : ''}: result and all gradients`, async () => {
      const random = seeded(101);
      const [x, w, b, r, dy] = [
        random.normals(N * C),
        random.normals(C * F),
        random.normals(F),
        random.normals(N * F),
        random.normals(N * F),
      ];
      const mode = layout === 'in_out' ? 'nn' : 'nt';
      const [X, R] = [matrix(x, C), matrix(r, F)];
      const weight = parameter('w', matrix(w, layout === 'in_out' ? F : C));
      const bias = parameter('b', padded(b));
      const arrived = random.normals(N * C);
      const got = await differentiate(
        (tape) => linear(tape, X, weight, { layout, bias, residual: residual ? R : undefined }),
        matrix(dy, F),
        residual ? [X, R] : [X],
        residual ? [matrix(arrived, C), matrix(r, F)] : undefined,
      );
      assertClose(
        got.y,
        matmulOf(mode, x, w, N, F, C).map((y, i) => y + b[i % F] + (residual ? r[i] : 0)),
        'y',
        1e-6,
      );
      const dx = matmulOf(layout === 'in_out' ? 'nt' : 'nn', dy, w, N, C, F);
      assertClose(
        got.gradients[0],
        dx.map((g, i) => g + (residual ? arrived[i] : 0)),
        'dx',
        1e-6,
      );
      if (residual)
        assertClose(
          got.gradients[1],
          Array.from(dy, (g, i) => g + r[i]),
          'residual',
          1e-6,
        );
      const dW = layout === 'in_out' ? matmulOf('tn', x, dy, C, F, N) : matmulOf('tn', dy, x, F, C, N);
      assertClose(await readFloats(weight.grad), dW, 'dW', 1e-6);
      const db = Float64Array.from({ length: 16 }, (_, c) =>
        c < F ? Array.from(dy).reduce((s, g, i) => s + (i % F === c ? g : 0), 0) : 0,
      );
      assertClose(await readFloats(bias.grad), db, 'db', 1e-6);
    });
  }
}

/** x + mlp(norm(x)), GPT-2's half block, on the host in float64. */
function block(x: ArrayLike<number>, p: Record<string, ArrayLike<number>>, act: 'tanh' | 'erf'): Float64Array {
  const a = normOf({ x, cols: C, kind: 'layer', weight: p.g, bias: p.h, eps: 1e-5 });
  const u = matmulOf('nn', a, p.up, N, F, C).map((v, i) => gelu(v + p.upBias[i % F], act));
  return matmulOf('nn', u, p.down, N, C, F).map((v, i) => v + p.downBias[i % C] + x[i]);
}

for (const act of ['tanh', 'erf'] as const) {
  test(`a residual block (norm, GELU ${act} MLP): all gradients are finite differences of the reference`, async () => {
    const random = seeded(103);
    const p = {
      g: random.normals(C),
      h: random.normals(C),
      up: random.normals(C * F, 0.5),
      upBias: random.normals(F),
      down: random.normals(F * C, 0.5),
      downBias: random.normals(C),
    };
    const [x, dy] = [random.normals(N * C), random.normals(N * C)];
    const X = matrix(x, C);
    const w = {
      g: parameter('g', padded(p.g)),
      h: parameter('h', padded(p.h)),
      up: parameter('up', matrix(p.up, F)),
      upBias: parameter('upBias', padded(p.upBias)),
      down: parameter('down', matrix(p.down, C)),
      downBias: parameter('downBias', padded(p.downBias)),
    };
    const op = (tape: Tape): Tensor => {
      const a = norm(tape, X, 'layer', w.g, w.h, 1e-5);
      const y = geluMlp(tape, a, w.up, w.upBias, w.down, w.downBias, { layout: 'in_out', gelu: act, residual: X });
      tape.done(a);
      return y;
    };
    const got = await differentiate(op, matrix(dy, C), [X]);
    assertClose(got.y, block(x, p, act), 'y', 1e-6);
    assertClose(
      got.gradients[0],
      finiteDifference((v) => dot(dy, block(v, p, act)), x),
      'dx',
      3e-6,
    );
    for (const name of Object.keys(p) as (keyof typeof p)[]) {
      const expected = finiteDifference((v) => dot(dy, block(x, { ...p, [name]: v }, act)), p[name]);
      assertClose((await readFloats(w[name].grad)).subarray(0, expected.length), expected, name, 3e-6, 1e-6);
    }
  });
}

test('a value used twice gets the sum of both gradients, and its buffer is kept until both have run', async () => {
  const random = seeded(105);
  const [x, w1, w2, dy] = [random.normals(N * C), random.normals(C * C), random.normals(C * C), random.normals(N * C)];
  const X = matrix(x, C);
  const [a, b] = [parameter('a', matrix(w1, C)), parameter('b', matrix(w2, C))];
  const op = (tape: Tape): Tensor => {
    const one = linear(tape, X, a, { layout: 'in_out' });
    // X feeds both products; the second adds the first's result.
    const two = linear(tape, X, b, { layout: 'in_out', residual: one });
    tape.done(one);
    return two;
  };
  const got = await differentiate(op, matrix(dy, C), [X]);
  const sum = Float64Array.from(w1, (v, i) => v + w2[i]);
  assertClose(got.y, matmulOf('nn', x, sum, N, C, C), 'y', 1e-6);
  assertClose(got.gradients[0], matmulOf('nt', dy, sum, N, C, C), 'dx', 1e-6);
});

test('without training nothing is kept: a value is given up when it is done with', async () => {
  await compute(() => {
    for (const training of [false, true]) {
      const tape = new Tape(training);
      const x = scratch(1000, 64);
      const w = parameter('w', persistent(64, 64));
      const y = linear(tape, x, w, { layout: 'in_out' });
      tape.done(x);
      assert.is(valueOf(x.buffer)!.held, training);
      tape.done(y);
    }
  }, []);
});

test('asking for a gradient that never came is an error', async () => {
  await compute(() => {
    assert.throws(() => new Tape(true).take(scratch(1, 4)), /no gradient has reached/);
  }, []);
});

test('ops that know one number for a row’s width and its distance refuse columns of a wider matrix', () => {
  const columns = persistent(4, 128).columnRange(64, 5);
  const [weight, index] = [{ name: 'w', value: persistent(1, 8) }, persistent(2, 1, 1)];
  const ops: ((tape: Tape) => void)[] = [
    (tape) => norm(tape, columns, 'rms', weight, undefined, 1e-5),
    (tape) => gather(tape, columns, index, index),
    (tape) => scalarHead(tape, columns, weight, persistent(2, 1, 1), persistent(4, 1, 1)),
  ];
  for (const op of ops) assert.throws(() => record(() => op(new Tape(false))), /\[4,5\] with rows 128 apart/);
});

test('adding gradients, and workgroups for more lanes than one dimension holds', async () => {
  const random = seeded(107);
  const [a, b] = [random.normals(33 * 10), random.normals(33 * 10)];
  const [A, B] = [matrix(a, 10), matrix(b, 10)];
  const [got] = await compute(() => addInto(A, B), [A]);
  assert.equal(
    [...got],
    Array.from(a, (v, i) => Math.fround(v + b[i])),
  );
  const limit = gpu().adapter.limits.maxComputeWorkgroupsPerDimension;
  assert.equal(spread(1), [1, 1]);
  assert.equal(spread(65), [2, 1]);
  assert.equal(spread(64 * limit), [limit, 1]);
  assert.equal(spread(64 * limit + 1), [limit, 2]);
});

test('a sum of more vec4s than one dimension of workgroups reaches is complete', async () => {
  const vec4s = 64 * gpu().adapter.limits.maxComputeWorkgroupsPerDimension + 64 * 3;
  const [A, B] = [persistent(vec4s, 4), persistent(vec4s, 4)];
  const tail = persistent(4, 4);
  const last = A.rowRange(vec4s - 16, 16);
  const program = await record(() => {
    addInto(A, B);
    copy(last, tail);
  }).ready();
  gpu().device.queue.writeBuffer(B.buffer, (vec4s - 16) * 16, new Float32Array(64).fill(2.5));
  program.run();
  assert.equal([...(await readFloats(tail))], new Array(16).fill(2.5));
  for (const t of [A, B]) t.buffer.destroy();
});

test.run();
