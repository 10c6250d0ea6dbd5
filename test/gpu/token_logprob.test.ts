import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { deviceMemory } from '../../src/gpu/memory.ts';
import { readsTextures } from '../../src/gpu/mirror.ts';
import { tokenLogprob } from '../../src/gpu/ops/token_logprob.ts';
import { copy } from '../../src/gpu/program.ts';
import { Tape } from '../../src/gpu/tape.ts';
import { persistent, readFloats } from '../../src/gpu/tensor.ts';
import { finiteDifference } from '../reference/finite_difference.ts';
import { logprobOf } from '../../src/self_test/reference/logprob.ts';
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

/** Hidden states h [M,C], unembedding w [V,C] and what is asked of them. */
interface Given {
  h: Float32Array;
  w: Float32Array;
  cols: number;
  targets: number[];
  dLogp: Float32Array;
  temperature?: number;
}

async function run({ h, w, cols, targets, dLogp, temperature }: Given) {
  const M = targets.length;
  const [H, weight, stats, back] = [
    matrix(h, cols),
    parameter('w', matrix(w, cols)),
    persistent(M, 4),
    persistent(M, cols),
  ];
  const [values, dH] = await compute(() => {
    const tape = new Tape(true);
    tape.push([], () => copy(tape.take(H), back));
    tokenLogprob(tape, H, weight, column(targets, 'u32'), stats, { temperature, dLogp: column(dLogp) });
    tape.backward();
  }, [stats, back]);
  return { stats: values, dH, dW: await readFloats(weight.grad) };
}

function expected({ h, w, cols, targets, dLogp, temperature }: Given) {
  const [M, V] = [targets.length, w.length / cols];
  const logits = matmulOf('nt', h, w, M, V, cols);
  const rows = targets.map((target, m) => logprobOf(logits.subarray(m * V, (m + 1) * V), target, temperature));
  const dLogits = rows.flatMap((row, m) => row.gradient.map((g) => g * dLogp[m]));
  return {
    stats: rows.flatMap((r) => [r.logp, r.entropy, r.correct, r.lse]),
    dH: matmulOf('nn', dLogits, w, M, cols, V),
    dW: matmulOf('tn', dLogits, h, V, cols, M),
  };
}

const make = (M: number, V: number, cols: number, seed: number, temperature?: number, scale = 1): Given => {
  const random = seeded(seed);
  return {
    h: random.normals(M * cols, scale),
    w: random.normals(V * cols),
    cols,
    temperature,
    dLogp: random.normals(M),
    targets: Array.from({ length: M }, (_, m) => (m === 0 ? V - 1 : random.below(V))),
  };
};

test('log-probability, entropy, accuracy and gradients equal the float64 reference', () =>
  onEachVariant(async (variant) => {
    const sizes = [
      [1, 1, 1],
      [3, 2, 7],
      [7, 9, 8],
      [9, 31, 33],
      [31, 65, 3],
      [33, 97, 43],
      [129, 129, 8],
      [2, 1000, 65],
      [3, 16503, 5], // a workgroup a row on GPUs
    ];
    for (const [i, [M, V, C]] of sizes.entries()) {
      const given = make(M, V, C, 70 + i, i % 2 ? 0.7 : undefined);
      const [got, want] = [await run(given), expected(given)];
      const label = `${variant}, ${M} of ${V}`;
      for (const [part, name] of ['logp', 'entropy', 'correct', 'lse'].entries()) {
        const of = (values: ArrayLike<number>): number[] => given.targets.map((_, m) => values[m * 4 + part]);
        assertClose(of(got.stats), of(want.stats), `${label}: ${name}`, 2e-6, 2e-6);
      }
      assertClose(got.dH, want.dH, `${label}: dh`, 5e-6, 1e-7);
      assertClose(got.dW, want.dW, `${label}: dW`, 5e-6, 1e-7);
    }
  }));

test('logits of thousands lose nothing to overflow', () =>
  onEachVariant(async (variant) => {
    const given = make(9, 65, 8, 90, undefined, 1000);
    const [got, want] = [await run(given), expected(given)];
    assertClose(got.stats, want.stats, variant, 1e-6, 1e-3);
    assert.ok([...got.dH, ...got.dW].every(Number.isFinite));
  }));

test('a large gradient of logits is mirrored in parts: right, and with little memory beside it', async () => {
  const given = make(290, 8000, 8, 92);
  const before = deviceMemory().textures;
  const [got, want] = [await run(given), expected(given)];
  assertClose(got.dH, want.dH, 'dh', 5e-6, 1e-7);
  assertClose(got.dW, want.dW, 'dW', 5e-6, 1e-7);
  const logits = 290 * 8000 * 4;
  const mirrors = deviceMemory().textures - before;
  assert.ok(readsTextures() ? mirrors > logits / 8 && mirrors < 0.5 * logits : mirrors === 0, `${mirrors} bytes beside ${logits}`);
});

test('more logits than are kept in memory: done in turn, each row with the bits it has otherwise', async () => {
  const [V, C] = [131072, 4]; // 512 KiB of logits a row: 128 rows at once
  const given = make(160, V, C, 91);
  const rows = (from: number, to: number): Given => ({
    ...given,
    h: given.h.slice(from * C, to * C),
    targets: given.targets.slice(from, to),
    dLogp: given.dLogp.slice(from, to),
  });
  const whole = await run(given);
  const parts = [await run(rows(0, 90)), await run(rows(90, 160))];
  assert.equal(
    [...whole.stats],
    parts.flatMap((p) => [...p.stats]),
  );
  assert.equal(
    [...whole.dH],
    parts.flatMap((p) => [...p.dH]),
  );
  // Another order of summation over rows.
  assertClose(
    whole.dW,
    parts[0].dW.map((g, i) => g + parts[1].dW[i]),
    'dW',
    1e-6,
  );
  const last = expected(rows(159, 160));
  assertClose(whole.stats.slice(-4), last.stats, 'last row', 2e-6);
  assertClose(whole.dH.slice(-C), last.dH, 'last row: dh', 1e-5);
});

test('a row has the same bits alone and beside others', () =>
  onEachVariant(async (variant) => {
    const given = make(33, 97, 40, 92);
    const all = await run(given);
    for (const m of [0, 8, 32]) {
      const alone = await run({
        ...given,
        h: given.h.slice(m * 40, (m + 1) * 40),
        targets: [given.targets[m]],
        dLogp: given.dLogp.slice(m, m + 1),
      });
      assert.equal(alone.stats, all.stats.slice(m * 4, m * 4 + 4), variant);
      assert.equal(alone.dH, all.dH.slice(m * 40, (m + 1) * 40), variant);
    }
  }));

test('the reference’s gradient is its finite difference, and temperatures divide the logits', () => {
  const logits = [0.3, -1, 2, 0.7, 0];
  for (const temperature of [1, 0.7, 3]) {
    const { gradient } = logprobOf(logits, 2, temperature);
    assertClose(
      finiteDifference((z) => logprobOf(z, 2, temperature).logp, logits),
      gradient,
      'gradient',
      1e-8,
    );
  }
  assertClose(
    [logprobOf(logits, 1, 2).logp],
    [
      logprobOf(
        logits.map((z) => z / 2),
        1,
      ).logp,
    ],
    'temperature',
    1e-12,
  );
});

test.run();
