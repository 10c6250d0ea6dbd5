import { adamwStep, l2Norm } from './reference/adamw.ts';
import { floatToHalf } from '../files/float_formats.ts';
import { adamw, gradientNorm, HYPER_LENGTH, hyperAt } from '../gpu/ops/adamw.ts';
import { ema } from '../gpu/ops/ema.ts';
import { narrow } from '../gpu/ops/half.ts';
import { record } from '../gpu/program.ts';
import { persistent, readFloats, upload, vector } from '../gpu/tensor.ts';
import { type Check, close, type KernelTest } from './check.ts';
import { column, compute, numbers } from './on_device.ts';

/** Three steps of a recorded program, with decay on a part of the weights and a norm that has to be clipped. */
async function checkAdamw(): Promise<Check[]> {
  const [n, decayCount, maxNorm] = [20_004, 10_000, 1];
  const settings = { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1 };
  const { normals } = numbers(15);
  const start = normals(n);
  const steps = [1, 2, 3].map((scale) => normals(n, scale));
  const [g, m, v, clip, hyper] = [vector(n), vector(n), vector(n), vector(4), vector(HYPER_LENGTH)];
  const values = column(start);
  const program = await record(() => {
    gradientNorm({ gradients: [g], out: clip, maxNorm });
    adamw({ values, gradients: g, m, v, decayCount }, clip, hyper);
  }).ready();
  const expected = { values: [...start], m: new Array<number>(n).fill(0), v: new Array<number>(n).fill(0) };
  const checks: Check[] = [];
  for (const [i, gradient] of steps.entries()) {
    upload(g, gradient);
    upload(hyper, hyperAt(i + 1, settings));
    program.run();
    adamwStep(expected, gradient, i + 1, settings, decayCount, maxNorm);
    checks.push(close(`norm of step ${i + 1}`, (await readFloats(clip)).subarray(0, 1), [l2Norm(gradient)]));
  }
  const moved = (await readFloats(values)).map((x, i) => x - start[i]);
  // What is compared is the change, 3e-3 of the weights, which float32 keeps to 2⁻²⁴ of themselves.
  return [
    ...checks,
    close(
      'three steps',
      moved,
      expected.values.map((x, i) => x - start[i]),
      1e-4,
    ),
  ];
}

async function checkEma(): Promise<Check[]> {
  const { normals } = numbers(16);
  const [a, b] = [normals(5004), normals(5004)];
  const [A, B, rate] = [column(a), column(b), column(Float32Array.of(0.0625))];
  const [average] = await compute(() => ema(A, B, rate), [A]);
  return [
    close(
      'average',
      average,
      a.map((x, i) => x + 0.0625 * (b[i] - x)),
    ),
  ];
}

/** The nearest halves: those of a resumed run, which the host makes, must be the same. */
async function checkHalf(): Promise<Check[]> {
  const { normals, below } = numbers(21);
  const values = normals(20_004).map((x) => x * 2 ** (below(44) - 27)); // subnormal halves, and more than the largest
  const [VALUES, half] = [column(values), persistent(values.length, 1, 1, 'f16')];
  const [got] = await compute(() => narrow(VALUES, half), [half]);
  const bits = got.map((x) => floatToHalf(x));
  return [close('bits', bits, Float32Array.from(values, floatToHalf), 0)];
}

export const optimiserTests: KernelTest[] = [
  { name: 'adamw', kernels: ['adamw', 'gradient_norm'], run: checkAdamw },
  { name: 'ema', kernels: ['ema'], run: checkEma },
  { name: 'half', kernels: ['half'], run: checkHalf },
];
