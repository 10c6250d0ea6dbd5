import { test } from 'uvu';
import { ema } from '../../src/gpu/ops/ema.ts';
import { record } from '../../src/gpu/program.ts';
import { readFloats, upload, vector } from '../../src/gpu/tensor.ts';
import { assertClose, closeAfterTests, column, fixture, openForTests, seeded } from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

async function follow(initial: ArrayLike<number>, steps: ArrayLike<number>[], decay: number): Promise<Float32Array[]> {
  const [average, values, rate] = [column(initial), vector(initial.length), column([1 - decay])];
  const program = await record(() => ema(average, values, rate)).ready();
  const after: Float32Array[] = [];
  for (const step of steps) {
    upload(values, Float32Array.from(step));
    program.run();
    after.push(await readFloats(average));
  }
  return after;
}

test('golden vectors: torch.optim.swa_utils.AveragedModel', async () => {
  const { initial, steps, decay } = fixture('optim/ema.json');
  const flat = (tensors: unknown[]): number[] => {
    const all = (tensors as number[][][]).flat(3);
    return [...all, ...new Array((4 - (all.length % 4)) % 4).fill(0)];
  };
  const got = await follow(
    flat(initial),
    steps.map((s: { weights: unknown[] }) => flat(s.weights)),
    decay,
  );
  steps.forEach((s: { ema: unknown[] }, i: number) => assertClose(got[i], flat(s.ema), `step ${i + 1}`, 1e-6));
});

test('equals the formula for every size', async () => {
  const random = seeded(7);
  for (const n of [4, 64, 260, 4096, 5000]) {
    const initial = random.normals(n);
    const steps = [random.normals(n), random.normals(n)];
    const got = await follow(initial, steps, 0.9);
    const first = Array.from(initial, (x, i) => 0.9 * x + 0.1 * steps[0][i]);
    assertClose(
      got[1],
      first.map((x, i) => 0.9 * x + 0.1 * steps[1][i]),
      `n ${n}`,
      3e-7,
    );
  }
});

test.run();
