import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { adamw, type AdamSettings, gradientNorm, HYPER_LENGTH, hyperAt } from '../../src/gpu/ops/adamw.ts';
import { record } from '../../src/gpu/program.ts';
import { readFloats, upload, vector } from '../../src/gpu/tensor.ts';
import { adamwStep, l2Norm } from '../../src/self_test/reference/adamw.ts';
import { assertClose, closeAfterTests, column, compute, fixture, lanesToTest, openForTests, seeded } from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

const up4 = (n: number): number => Math.ceil(n / 4) * 4;
const padded = (values: ArrayLike<number>): Float32Array => {
  const out = new Float32Array(up4(values.length));
  out.set(values);
  return out;
};

/** Runs AdamW over a list of gradients with one recorded step, as training does; gives the values after each step. */
async function train(
  initial: ArrayLike<number>,
  gradients: ArrayLike<number>[],
  settings: AdamSettings,
  decayCount: number,
  maxNorm?: number,
) {
  const n = up4(initial.length);
  const [g, m, v, clip, hyper] = [vector(n), vector(n), vector(n), vector(4), vector(HYPER_LENGTH)];
  const values = column(padded(initial));
  const program = await record(() => {
    gradientNorm({ gradients: [g], out: clip, maxNorm });
    adamw({ values, gradients: g, m, v, decayCount }, clip, hyper);
  }).ready();
  const after: Float32Array[] = [];
  const norms: number[] = [];
  for (const [i, gradient] of gradients.entries()) {
    upload(g, padded(gradient));
    upload(hyper, hyperAt(i + 1, settings));
    program.run();
    after.push(await readFloats(values));
    norms.push((await readFloats(clip))[0]);
  }
  return { after, norms };
}

test('golden vectors: torch.optim.AdamW and Adam, with and without clipping', async () => {
  const { params0, grads, runs } = fixture('optim/adam.json');
  const flat = (tensors: unknown[]): number[] => tensors.flatMap((t) => [...padded((t as number[][]).flat(3))]);
  // Tensors with two dimensions come first: they are the decayed ones.
  const order = (tensors: number[][][]): unknown[] =>
    [...tensors].sort((a, b) => Number(Array.isArray(b[0])) - Number(Array.isArray(a[0])));
  const decayCount = flat(params0.filter((t: unknown[]) => Array.isArray(t[0]))).length;
  let tested = 0;
  for (const run of runs) {
    if (!run.kind.startsWith('torch')) continue; // TensorFlow 1's epsilon-hat is another denominator
    const settings = {
      lr: run.lr,
      beta1: run.betas[0],
      beta2: run.betas[1],
      eps: run.eps,
      weightDecay: run.weight_decay,
    };
    const gradients = grads.map((g: number[][][]) => flat(order(g)));
    const got = await train(flat(order(params0)), gradients, settings, decayCount, run.clip_grad_norm ?? undefined);
    run.params_after_each_step.forEach((p: number[][][], i: number) => {
      const expected = flat(order(p));
      assertClose(got.after[i], expected, `${run.kind}, step ${i + 1}`, 1e-6);
      const start = flat(order(params0));
      assertClose(
        got.after[i].map((x, j) => x - start[j]),
        expected.map((x, j) => x - start[j]),
        'moved',
        2e-5,
        2e-7,
      );
    });
    if (run.grad_norms_before_clip) assertClose(got.norms, run.grad_norms_before_clip, 'norms', 1e-6);
    tested++;
  }
  assert.is(tested, 4);
});

test('equals the float64 reference for every size', async () => {
  const random = seeded(4);
  const settings = { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1 };
  for (const n of [1, 7, 8, 9, 63, 65, 1000, 5003]) {
    const initial = random.normals(n);
    const gradients = [random.normals(n, 0.1), random.normals(n, 3), random.normals(n, 1e-4)];
    const decayCount = Math.floor(n / 8) * 4;
    const got = await train(initial, gradients, settings, decayCount, 1);
    const chunk = { values: [...initial], m: new Array(n).fill(0), v: new Array(n).fill(0) };
    gradients.forEach((g, i) => adamwStep(chunk, g, i + 1, settings, decayCount, 1));
    const moved = (x: ArrayLike<number>): number[] => Array.from(initial, (start, i) => x[i] - start);
    assertClose(moved(got.after[2]), moved(chunk.values), `n ${n}`, 5e-5, 3e-7);
    assertClose(
      got.norms,
      gradients.map((g) => l2Norm(g)),
      `norm ${n}`,
      1e-6,
    );
    const padding = got.after[2].slice(n);
    assert.equal([...padding], new Array(padding.length).fill(0), 'padding stays zero');
  }
});

test('norm over several chunks, each way to reduce: small, huge, clipped and not', async () => {
  const random = seeded(6);
  for (const scale of [1e-12, 0.001, 1, 1e13]) {
    const chunks = [4, 40_000, 1000, 16_388].map((n) => random.normals(n, scale));
    const expected = l2Norm(...chunks);
    for (const lanes of lanesToTest()) {
      const [plain, clipped] = [vector(4), vector(4)];
      const gradients = chunks.map((c) => column(c));
      const got = await compute(() => {
        gradientNorm({ gradients, out: plain }, lanes);
        gradientNorm({ gradients, out: clipped, maxNorm: 1 }, lanes);
      }, [plain, clipped]);
      assertClose(got[0], [expected, 1, 1, 0], `scale ${scale}`, 1e-6);
      assertClose(got[1], [expected, Math.min(1, 1 / (expected + 1e-6)), 1, 0], 'clipped', 1e-6);
      assertClose([got[1][1]], [Math.min(1, 1 / (expected + 1e-6))], 'coefficient', 1e-6);
    }
  }
});

test('a gradient that is not finite is flagged and changes nothing', async () => {
  for (const bad of [NaN, Infinity, -Infinity]) {
    const g = column([1, 2, bad, 3, 0, 0, 0, 0]);
    const [values, m, v, clip] = [
      column([1, 2, 3, 4, 5, 6, 7, 8]),
      column(new Array(8).fill(0.5)),
      column(new Array(8).fill(0.25)),
      vector(4),
    ];
    const hyper = column(hyperAt(3, { lr: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1 }));
    const got = await compute(() => {
      gradientNorm({ gradients: [g], out: clip, maxNorm: 1 });
      adamw({ values, gradients: g, m, v, decayCount: 8 }, clip, hyper);
    }, [values, m, v, clip]);
    assert.equal([...got[0]], [1, 2, 3, 4, 5, 6, 7, 8]);
    assert.equal([...got[1]], new Array(8).fill(0.5));
    assert.equal([...got[2]], new Array(8).fill(0.25));
    assert.equal([...got[3].slice(1)], [0, 0, 0]);
  }
});

test('two runs are equal bit for bit', async () => {
  const random = seeded(8);
  const initial = random.normals(4099);
  const gradients = [random.normals(4099), random.normals(4099)];
  const settings = { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-5, weightDecay: 0 };
  const [a, b] = [await train(initial, gradients, settings, 0, 1), await train(initial, gradients, settings, 0, 1)];
  assert.equal(a, b);
});

test.run();
