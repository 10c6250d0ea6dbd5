import { byKernel, observe, type Timed } from './observe.ts';

/** One thing to measure: what it is, and how to run it. */
export interface BenchCase {
  name: string;
  shape: Record<string, number | string>;
  /** For GPUs: on a software driver it runs only when it is named. */
  large?: boolean;
  /** Runs only when it is named. */
  named?: boolean;
  prepare(): Promise<BenchRun>;
}

/** Whether a benchmark is meant by a name: its own, or `gemm` for all that begin with `gemm_`. */
export const goesBy = (benchmark: string, name: string): boolean => benchmark === name || benchmark.startsWith(`${name}_`);

export interface BenchRun {
  /** Runs it once, or for what is `repeatable` so many times, and waits until the device is done. The first call may compile; it is not counted. */
  run(times?: number): Promise<void>;
  /** A kernel's run: so many follow each other that waiting for their end counts for little. */
  repeatable?: boolean;
  /** Of one run, where they mean something: tokens, episodes, floating-point operations, the least bytes to read and write. */
  tokens?: number;
  episodes?: number;
  flops?: number;
  bytes?: number;
  /** Submits one run without waiting for it: what the host spends on it. */
  submit?(): Promise<void> | void;
  /** The part of a run that a dispatch belongs to, given the part of the one before it: device time by part is then reported. */
  partOf?(kernel: string, before: string): string;
  /** Whether device time is reported by kernel. */
  kernels?: boolean;
  /** What else there is to report. */
  more?(): Record<string, unknown> | Promise<Record<string, unknown>>;
  dispose?(): void;
}

/** A result: one line of JSON. */
export interface Line { name: string; shape: BenchCase['shape']; ms: number; [more: string]: unknown }

const BUDGET_MS = 10_000; // of timed runs; three runs at least
const BUSY_MS = 150; // of repeated runs between two waits, at least
const MOST_REPEATED = 2000;
const round = (x: number): number => Number(x.toPrecision(4));
const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1];

/** Prepares a case, warms it up, times at most `steps` runs, and then looks at what a run asks of the device. */
export async function measure({ name, shape, prepare }: BenchCase, steps: number): Promise<Line> {
  const began = performance.now();
  const bench = await prepare();
  const { run, tokens, episodes, flops, bytes } = bench;
  await run();
  const first = performance.now() - began;
  const repeat = await repetitions(bench);
  const times: number[] = [];
  for (const start = performance.now(); times.length < steps && (times.length < 3 || performance.now() - start < BUDGET_MS);) {
    times.push(await timed(() => run(repeat)) / repeat);
  }
  const ms = median(times);
  const host = bench.submit && await hostTime(bench);
  const observedRuns = Math.min(repeat, 200); // passes that get timestamps
  const counted = await observe(() => run(observedRuns), { each: false });
  const dispatches = counted.dispatches / observedRuns;
  const line: Line = {
    name,
    shape,
    ms: round(ms),
    ms_min: round(Math.min(...times)),
    ms_max: round(Math.max(...times)),
    runs: times.length,
    first_ms: round(first),
    ...(tokens === undefined ? {} : { tokens_per_second: round((tokens / ms) * 1000) }),
    ...(episodes === undefined ? {} : { episodes_per_second: round((episodes / ms) * 1000) }),
    ...(flops === undefined ? {} : { gflops: round(flops / ms / 1e6) }),
    ...(bytes === undefined ? {} : { gbytes_per_second: round(bytes / ms / 1e6), bytes }),
    ...(counted.times.length > 0 ? { gpu_ms: round(total(counted.times) / observedRuns) } : {}),
    ...(host === undefined ? {} : { host_ms: round(host), host_us_per_dispatch: round((host * 1000) / dispatches) }),
    ...(dispatches > 0 ? {
      dispatches,
      copies: Math.round(counted.copies / observedRuns),
      submits: counted.submits / observedRuns,
      uploaded_bytes: Math.round(counted.uploaded / observedRuns),
    } : {}),
    ...await bench.more?.(),
  };
  if ((bench.kernels || bench.partOf) && counted.times.length > 0) Object.assign(line, await profiled(bench));
  bench.dispose?.();
  return line;
}

const timed = async (work: () => Promise<void>): Promise<number> => {
  const at = performance.now();
  await work();
  return performance.now() - at;
};

/** Runs between two waits, found by running: the device is then busy for BUSY_MS. */
async function repetitions({ run, repeatable }: BenchRun): Promise<number> {
  for (let repeat = 1; ;) {
    const ms = await timed(() => run(repeat));
    if (!repeatable || ms >= BUSY_MS || repeat === MOST_REPEATED) return repeat;
    repeat = Math.min(MOST_REPEATED, Math.ceil(repeat * Math.min(8, Math.max(1.2, (1.1 * BUSY_MS) / ms))));
  }
}

const HOST_RUNS = 7; // a driver on the same cores often comes in between

/** Median time to submit one run, the device idle before. */
async function hostTime({ submit, run }: BenchRun): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < HOST_RUNS; i++) {
    const at = performance.now();
    await submit!();
    times.push(performance.now() - at);
    await run(); // ends when the device has done all
  }
  return median(times);
}

async function profiled({ run, partOf, kernels }: BenchRun): Promise<Record<string, unknown>> {
  const { times } = await observe(() => run(), { each: true });
  const all = total(times);
  const parts: Record<string, number> = {};
  let part = '';
  if (partOf) for (const { kernel, ms } of times) parts[(part = partOf(kernel, part))] = (parts[part] ?? 0) + ms;
  return {
    ...(partOf ? { gpu_parts_ms: Object.fromEntries(Object.entries(parts).map(([name, ms]) => [name, round(ms)])) } : {}),
    ...(kernels ? { kernels: byKernel(times).map(({ kernel, ms, dispatches }) =>
      ({ kernel, ms: round(ms), share: round(ms / all), dispatches })) } : {}),
  };
}

const total = (times: readonly Timed[]): number => times.reduce((sum, { ms }) => sum + ms, 0);
