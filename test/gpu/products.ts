// Operands and checks of matrix products that several test files share.
import * as assert from 'uvu/assert';
import type { Mode, Store } from '../../src/gpu/ops/matmul.ts';
import { type Tensor, upload } from '../../src/gpu/tensor.ts';
import { matmulOf } from '../../src/self_test/reference/matmul.ts';
import { assertClose, matrix, type seeded, withPadding } from './device.ts';

export const MODES: readonly Mode[] = ['nn', 'nt', 'tn'];
/** M, N, K. */
export type Size = readonly [number, number, number];

/** Every store, for bias [N] and another matrix of C's shape; the GELU that each mode is used with first. */
export const storesOf = (mode: Mode, bias: Tensor, other: Tensor): Store[] => {
  const act = mode === 'nt' ? 'erf' : 'tanh';
  return [
    { kind: 'plain' },
    { kind: 'plain', bias },
    { kind: 'residual', bias, residual: other },
    { kind: 'add', scale: 0.75 },
    { kind: 'gelu', bias, preactivation: other, act },
    { kind: 'gelu_grad', preactivation: other, act },
    { kind: 'gelu_more', preactivation: other, act, scale: 0.75 },
    { kind: 'gelu_grad_more', preactivation: other, act, scale: 0.75 },
    { kind: 'gelu_alone', bias, act },
  ];
};

/** A, B and C of one product, C full of numbers that a store may add to. */
export function operands(mode: Mode, [m, n, k]: Size, random: ReturnType<typeof seeded>) {
  const a = random.normals(m * k);
  const b = random.normals(k * n);
  const c0 = random.normals(m * n);
  return {
    a,
    b,
    c0,
    A: matrix(a, mode === 'tn' ? m : k),
    B: matrix(b, mode === 'nt' ? k : n),
    C: matrix(c0, n),
    product: matmulOf(mode, a, b, m, n, k),
  };
}

/** Checks rows of `cols` numbers read with their padding: the numbers, and zeros behind them. */
export function check(values: Float32Array, expected: Float64Array, cols: number, message: string): void {
  const stride = values.length / (expected.length / cols);
  const real = values.filter((_, i) => i % stride < cols);
  assertClose(real, expected, message, 2e-6);
  assert.ok(
    values.every((x, i) => i % stride < cols || x === 0),
    `${message}: padding columns are zero`,
  );
}

/** Junk in the padding columns too: a store must replace it. */
export const junk = (t: Tensor): Tensor => {
  upload(withPadding(t), new Float32Array(t.rows * t.stride).fill(7));
  return t;
};
