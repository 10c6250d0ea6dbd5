// GPUs' functions are not exact: here tanh is an ulp short of 1 where it should be 1, as of drivers that divide by way of a reciprocal.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { matmul } from '../../src/gpu/ops/matmul.ts';
import { persistent } from '../../src/gpu/tensor.ts';
import { geluGrad } from '../../src/self_test/reference/matmul.ts';
import { assertClose, closeAfterTests, compute, matrix, onEachVariant, openForTests, rewriteKernels } from './device.ts';

let changed = 0;
rewriteKernels((code) => code.replace(/\btanh\(inner\(x\)\)/g, () => {
  changed++;
  return '(0.99999994 * tanh(inner(x)))';
}));
test.before(openForTests);
test.after(closeAfterTests);

test('the gradient of GELU far from 0 is 1 or 0 though tanh is an ulp off: nothing multiplies the error', () =>
  onEachVariant(async (variant) => {
    const before = changed;
    const x = [...Array.from({ length: 57 }, (_, i) => (i - 28) / 2), 30, -30, 100, -100, 1e3, -1e3, 1e6, -1e6, 1e15, -1e15, 3e38, -3e38];
    const [ones, u, c] = [matrix(new Array(x.length).fill(1), x.length), matrix(x, x.length), persistent(1, x.length)];
    const one = matrix([1], 1);
    const [got] = await compute(() => matmul('nn', one, ones, c, { kind: 'gelu_grad', act: 'tanh', preactivation: u }), [c]);
    x.forEach((value, i) => assertClose([got[i]], [geluGrad(value, 'tanh')], `${variant}: at ${value}`, 0, 4e-6)); // 6.4e-9 · 7³, and rounding
    assert.ok(changed > before, 'tanh was changed');
  }));

test.run();
