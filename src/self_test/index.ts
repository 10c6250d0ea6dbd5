import { checkDevice, gpu } from '../gpu/device.ts';
import { type Check, type KernelTest, passed } from './check.ts';
import { layerTests } from './layers.ts';
import { lossTests } from './losses.ts';
import { lowRankTests } from './low_rank.ts';
import { matmulTests } from './matmul.ts';
import { optimiserTests } from './optimiser.ts';
import { samplingTests } from './sampling.ts';
import { tokenTests } from './tokens.ts';

export const kernelTests: readonly KernelTest[] = [
  ...matmulTests,
  ...lowRankTests,
  ...layerTests,
  ...tokenTests,
  ...lossTests,
  ...optimiserTests,
  ...samplingTests,
];

/** How a test ended. */
export interface Outcome {
  ok: boolean;
  /** `ok matmul 3.1e-7`, `FAIL matmul: nt: error 2.0e-1, 1.0e-5 allowed`. */
  line: string;
}

/** Of these tests, those that the open device has the features for. */
export const testsHere = (tests: readonly KernelTest[] = kernelTests): KernelTest[] =>
  tests.filter(({ needs }) => !needs || gpu().features.has(needs));

/** How many tests passed and failed, and which there are that the open device lacks the features for: the self-test's last line. */
export function tally(outcomes: readonly Outcome[]): string {
  const here = testsHere();
  const failed = outcomes.filter(({ ok }) => !ok).length;
  const left = kernelTests.filter((test) => !here.includes(test));
  const needs = [...new Set(left.map((test) => test.needs))].join(', ');
  return `self-test: ${outcomes.length - failed} passed, ${failed} failed${left.length ? `, ${left.length} left out (this device has no ${needs})` : ''}`;
}

/**
 * Runs kernels on the open device, if it has the features for them, and compares them with float64 references on the host. All tests
 * are started at once, so that their pipelines are compiled side by side; outcomes come in the order of the tests.
 */
export async function* selfTest(tests: readonly KernelTest[] = kernelTests): AsyncGenerator<Outcome> {
  const here = testsHere(tests);
  const running = here.map((test) => test.run().catch((error: unknown) => error));
  for (const [i, { name }] of here.entries()) {
    const result = await running[i];
    checkDevice();
    yield outcomeOf(name, result as Check[] | Error);
  }
}

/** The verdict on a test's comparisons, or on what it threw instead. */
export function outcomeOf(name: string, result: readonly Check[] | Error): Outcome {
  if (result instanceof Error) return { ok: false, line: `FAIL ${name}: ${result.message.trim().split('\n')[0]}` };
  if (result.length === 0) return { ok: false, line: `FAIL ${name}: nothing was compared` };
  const failed = result.find((check) => !passed(check));
  if (failed) {
    const { what, error, allowed } = failed;
    return {
      ok: false,
      line: `FAIL ${name}: ${what}: error ${error.toExponential(1)}, ${allowed.toExponential(1)} allowed`,
    };
  }
  return { ok: true, line: `ok ${name} ${Math.max(...result.map((check) => check.error)).toExponential(1)}` };
}
