import { matmulOf } from './reference/matmul.ts';
import { expand, lowRankGradients, project } from '../gpu/ops/low_rank.ts';
import { copy } from '../gpu/program.ts';
import { persistent, type Storage } from '../gpu/tensor.ts';
import { type Check, close, inBoth, type KernelTest, roundingOf } from './check.ts';
import { compute, matrix, numbers, parameter } from './on_device.ts';

/**
 * Two matrices fused along their outputs: B is block-diagonal and so is its gradient. The adapter is always f32, what it
 * reads and adds to is stored as `storage` says.
 */
async function checkLowRank(storage: Storage): Promise<Check[]> {
  const [rows, inputs, outputs, rank, scale] = [37, 43, 61, 3, 0.5];
  const blocks = {
    rank,
    rows: [
      [0, 25],
      [25, outputs],
    ] as const,
  };
  const R = rank * blocks.rows.length;
  const { normals } = numbers(20, storage);
  const inside = (i: number): boolean => {
    const [first, last] = blocks.rows[Math.floor((i % R) / rank)];
    return Math.floor(i / R) >= first && Math.floor(i / R) < last;
  };
  const [x, a, b] = [
    normals(rows * inputs),
    normals(R * inputs),
    normals(outputs * R).map((v, i) => (inside(i) ? v : 0)),
  ];
  const [y, dy, dx] = [normals(rows * outputs), normals(rows * outputs), normals(rows * inputs)];
  const [X, Y, DY, DX] = [matrix(x, inputs, undefined, storage), matrix(y, outputs, undefined, storage), matrix(dy, outputs), matrix(dx, inputs)];
  const lora = { a: parameter(a, inputs), b: parameter(b, R), scale, blocks };
  const U = persistent(rows, R);
  const build = (): void => {
    const u = project(X, lora);
    copy(u, U);
    expand(u, lora, Y);
    lowRankGradients(X, u, DY, lora, DX);
  };
  const got = await compute(build, [U, Y, DX, lora.a.grad, lora.b.grad]);
  const u = matmulOf('nt', x, a, rows, R, inputs);
  const du = matmulOf('nn', dy, b, rows, R, outputs);
  const plus = (values: Float32Array, product: Float64Array): Float64Array =>
    product.map((p, i) => values[i] + scale * p);
  return [
    close('projection', got[0], u),
    close('result', got[1], plus(y, matmulOf('nt', u, b, rows, outputs, R)), roundingOf(storage)),
    close('gradient', got[2], plus(dx, matmulOf('nn', du, a, rows, inputs, R))),
    close(
      'gradient of A',
      got[3],
      matmulOf('tn', du, x, R, inputs, rows).map((v) => scale * v),
    ),
    close(
      'gradient of B',
      got[4],
      matmulOf('tn', dy, u, outputs, R, rows).map((v, i) => (inside(i) ? scale * v : 0)),
    ),
  ];
}

export const lowRankTests: KernelTest[] = inBoth('low_rank', ['zero_outside_blocks', 'matmul'], checkLowRank);
