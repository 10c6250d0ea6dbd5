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

export interface BenchRun {
  /** Runs it `repeat` times and waits until the device is done. The first call may compile; it is not counted. */
  run(): Promise<void>;
  /** For what takes less than a few milliseconds. */
  repeat?: number;
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
const round = (x: number): number => Number(x.toPrecision(4));
const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1];

/** Prepares a case, warms it up, times at most `steps` runs, and then looks at what a run asks of the device. */
export async function measure({ name, shape, prepare }: BenchCase, steps: number): Promise<Line> {
  const began = performance.now();
  const bench = await prepare();
  const { run, repeat = 1, tokens, episodes, flops, bytes } = bench;
  await run();
  const first = performance.now() - began;
  await run();
  const times: number[] = [];
  for (const start = performance.now(); times.length < steps && (times.length < 3 || performance.now() - start < BUDGET_MS);) {
    const at = performance.now();
    await run();
    times.push((performance.now() - at) / repeat);
  }
  const ms = median(times);
  const host = bench.submit && await hostTime(bench);
  const counted = await observe(run, { each: false });
  const dispatches = counted.dispatches / repeat;
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
    ...(counted.times.length > 0 ? { gpu_ms: round(total(counted.times) / repeat) } : {}),
    ...(host === undefined ? {} : { host_ms: round(host), host_us_per_dispatch: round((host * 1000) / dispatches) }),
    ...(dispatches > 0 ? { dispatches, submits: counted.submits / repeat, uploaded_bytes: Math.round(counted.uploaded / repeat) } : {}),
    ...await bench.more?.(),
  };
  if ((bench.kernels || bench.partOf) && counted.times.length > 0) Object.assign(line, await profiled(bench));
  bench.dispose?.();
  return line;
}

/** Median time to submit one run, the device idle before. */
async function hostTime({ submit, run }: BenchRun): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < 3; i++) {
    const at = performance.now();
    await submit!();
    times.push(performance.now() - at);
    await run(); // ends when the device has done all
  }
  return median(times);
}

async function profiled({ run, repeat = 1, partOf, kernels }: BenchRun): Promise<Record<string, unknown>> {
  const { times } = await observe(run, { each: true });
  const all = total(times);
  const parts: Record<string, number> = {};
  let part = '';
  if (partOf) for (const { kernel, ms } of times) parts[(part = partOf(kernel, part))] = (parts[part] ?? 0) + ms / repeat;
  return {
    ...(partOf ? { gpu_parts_ms: Object.fromEntries(Object.entries(parts).map(([name, ms]) => [name, round(ms)])) } : {}),
    ...(kernels ? { kernels: byKernel(times, repeat).map(({ kernel, ms, dispatches }) =>
      ({ kernel, ms: round(ms), share: round((ms * repeat) / all), dispatches })) } : {}),
  };
}

const total = (times: readonly Timed[]): number => times.reduce((sum, { ms }) => sum + ms, 0);
