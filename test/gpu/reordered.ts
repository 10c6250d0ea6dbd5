import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { gpu } from '../../src/gpu/device.ts';
import { passed } from '../../src/self_test/check.ts';
import { kernelTests } from '../../src/self_test/index.ts';
import { closeAfterTests, openForTests, rewriteKernels } from './device.ts';

/** Which lane of a workgroup of `size` runs in the place of lane `h`: an expression. */
type Order = (h: string, size: number) => string;

/** The last lane first. Lanes that a driver runs in lockstep (8 in a row, on Mesa's) stay beside each other. */
const fromBehind: Order = (h, size) => `${size - 1}u - ${h}`;

/**
 * From behind too, but lanes that stand in one subgroup of 8 are from all over the workgroup, and neighbours are in different ones: what they
 * share without a barrier then goes through memory in a wrong order. For kernels without subgroup operations only.
 */
export const scattered: Order = (h, size) => (size > 8 && size % 8 === 0 ? `${size - 1}u - (${h} % 8u * ${size / 8}u + ${h} / 8u)` : fromBehind(h, size));

/** The last subgroup of so many lanes first, each with its lanes in order, as subgroup operations need them. */
export const subgroupsFromBehind = (lanes: number): Order => (h, size) =>
  (size % lanes === 0 ? `(${size / lanes - 1}u - ${h} / ${lanes}u) * ${lanes}u + ${h} % ${lanes}u` : h);

/** A kernel's text with its workgroups from behind and its lanes in another order. Errors: where it uses a builtin that is not known here. */
function reordered(code: string, order: Order): string {
  const [, x, y = 1, z = 1] = /@workgroup_size\((\d+)(?:,\s*(\d+))?(?:,\s*(\d+))?\)/.exec(code)!;
  const size = [x, y, z].map(Number);
  if (size[1] * size[2] !== 1) throw new Error(`a workgroup of ${size.join(' × ')} lanes is not reordered`);
  const others: Record<string, (forwards: string) => string> = {
    workgroup_id: (forwards) => `groups_from_behind - 1u - ${forwards}`,
    local_invocation_index: (forwards) => order(forwards, size[0]),
    global_invocation_id: (forwards) =>
      `vec3u((groups_from_behind.x - 1u - ${forwards}.x / ${size[0]}u) * ${size[0]}u + ${order(`(${forwards}.x % ${size[0]}u)`, size[0])}, groups_from_behind.yz - 1u - ${forwards}.yz)`,
  };
  return code.replace(/fn main\(((?:[^()]|\([^()]*\))*)\)\s*\{/, (_, parameters: string) => {
    let begin = '';
    const given = parameters.replace(/@builtin\((\w+)\)\s*(\w+)/g, (_all, builtin: string, name: string) => {
      if (builtin === 'num_workgroups') {
        begin = `let ${name} = groups_from_behind;\n${begin}`;
        return '@builtin(num_workgroups) groups_from_behind';
      }
      const turned = others[builtin]?.(`${name}_forwards`);
      if (!turned) throw new Error(`@builtin(${builtin}) is not reordered`);
      begin += `let ${name} = ${turned};\n`;
      return `@builtin(${builtin}) ${name}_forwards`;
    });
    const groups = given.includes('groups_from_behind') ? '' : ', @builtin(num_workgroups) groups_from_behind: vec3u';
    return `fn main(${given}${groups}) {\n${begin}`;
  });
}

/** Has all kernels that are compiled from now on run in another order. Returns how many texts were changed so far. */
export function reorderKernels(order: Order = fromBehind): () => number {
  let changed = 0;
  rewriteKernels((code) => {
    const text = reordered(code, order);
    changed += Number(text !== code);
    return text;
  });
  return () => changed;
}

/** Declares the self-test's tests of these names, in the order that kernels have by then. Those of f16 do nothing where the device has none. */
export function testsOfKernels(names: RegExp): void {
  test.before(openForTests);
  test.after(closeAfterTests);
  for (const { name, needs, run } of kernelTests.filter((one) => names.test(one.name))) {
    test(`${name} equals the float64 reference`, async () => {
      if (needs && !gpu().features.has(needs)) return;
      const checks = await run();
      assert.ok(checks.length > 0);
      for (const check of checks) assert.ok(passed(check), `${check.what}: ${check.error}, ${check.allowed} allowed`);
    });
  }
}
