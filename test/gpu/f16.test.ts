import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { passed } from '../../src/self_test/check.ts';
import { kernelTests } from '../../src/self_test/index.ts';
import { checkAttention } from '../../src/self_test/layers.ts';
import { gpu } from '../../src/gpu/device.ts';
import { closeAfterTests, halfTest, onEachVariant, openForTests } from './device.ts';

process.env.RLHF_TEST_FORMS ??= 'own'; // f16_memory.test.ts has the others
await openForTests();
test.after(closeAfterTests);

/** A software driver takes minutes to compile attention through workgroup memory for heads as large as the self-test's. */
const tooSlow = (name: string): boolean => name === 'attention_f16' && gpu().software && gpu().subgroup === 0;

for (const { name, run } of kernelTests.filter(({ needs }) => needs === 'shader-f16')) {
  halfTest(`${name}: results stored in f16 equal the float64 reference to their rounding, f32 ones to f32's`, () =>
    onEachVariant(async (variant) => {
      if (tooSlow(name)) return;
      const checks = await run();
      assert.ok(checks.length > 0);
      for (const check of checks) assert.ok(passed(check), `${variant}, ${check.what}: ${check.error}, ${check.allowed} allowed`);
      // Something was indeed stored as f16, unless the op only copies or only reads halves.
      const rounds = checks.some(({ allowed }) => allowed === 2 ** -10);
      if (rounds) assert.ok(checks.some(({ error, allowed }) => allowed === 2 ** -10 && error > 2 ** -14), `${variant}: nothing was rounded`);
    }));
}

halfTest('attention over small heads, whole vec4s or not, in every form', () =>
  onEachVariant(async (variant) => {
    for (const shape of [{ heads: 4, kvHeads: 2, headDim: 8 }, { heads: 3, kvHeads: 1, headDim: 6 }]) {
      for (const check of await checkAttention(shape, 'f16')) assert.ok(passed(check), `${variant}, ${check.what}: ${check.error}`);
    }
  }));

test.run();
