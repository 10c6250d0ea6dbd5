import { readFileSync } from 'node:fs';
import type { RunContext } from '../context.ts';
import { UsageError } from '../errors.ts';
import { adapterName } from '../gpu/device.ts';
import type { BenchSettings } from '../options.ts';
import { openSession } from '../train/session.ts';
import { kernelCases } from '../bench/kernels.ts';
import { modelCases } from '../bench/models.ts';

/** One measured thing: what it is, and how to run it once and wait for it. */
export interface BenchCase {
  name: string;
  shape: Record<string, number | string>;
  /** Makes it ready; the first run is not counted. Returns one timed run, which resolves when the device is done. */
  prepare(): Promise<BenchRun>;
}

export interface BenchRun {
  run(): Promise<void>;
  /** Tokens, floating-point operations and bytes of one run, where they mean something. */
  tokens?: number;
  flops?: number;
  bytes?: number;
  /** Dispatches of one run. */
  dispatches?: number;
  /** Runs that are submitted before one wait, for things that take less than a few milliseconds. */
  repeat?: number;
  /** Submits without waiting: what the host itself spends on a run. */
  submit?(): void;
}

/** Times parts of the program on this device: a JSON line each on standard output, a table on standard error. */
export async function bench(settings: BenchSettings, context: RunContext): Promise<void> {
  const opened = await openSession(settings, context);
  const cases = [...kernelCases(), ...modelCases(settings)];
  const wanted = settings.names;
  for (const name of wanted) {
    if (!cases.some((c) => c.name === name || c.name.startsWith(`${name}_`))) {
      throw new UsageError(`bench: no ${JSON.stringify(name)}`, `there are ${[...new Set(cases.map((c) => c.name))].join(', ')}`);
    }
  }
  const chosen = wanted.length > 0 ? cases.filter((c) => wanted.some((n) => c.name === n || c.name.startsWith(`${n}_`))) : cases;
  const earlier = settings.against ? readEarlier(settings.against) : new Map<string, number>();
  const adapter = adapterName(opened.info);
  context.log(`${adapter}; median of ${settings.steps} runs`);
  for (const one of chosen) {
    const line = await measure(one, settings.steps);
    const before = earlier.get(key(line));
    const ratio = before === undefined ? {} : { ratio: before / line.ms };
    await context.stdout.write(JSON.stringify({ ...line, ...ratio, adapter }));
    context.log(row(line, before));
  }
}

interface Line { name: string; shape: Record<string, number | string>; ms: number; [more: string]: unknown }

async function measure({ name, shape, prepare }: BenchCase, steps: number): Promise<Line> {
  const started = performance.now();
  const { run, tokens, flops, bytes, dispatches, repeat = 1, submit } = await prepare();
  await run();
  const first = performance.now() - started;
  const times: number[] = [];
  for (let i = 0; i < steps; i++) {
    const at = performance.now();
    await run();
    times.push((performance.now() - at) / repeat);
  }
  times.sort((a, b) => a - b);
  const ms = times[times.length >> 1];
  let host: number | undefined;
  if (submit) {
    const at = performance.now();
    submit();
    host = performance.now() - at;
    await run();
  }
  const round = (x: number): number => Number(x.toPrecision(4));
  return {
    name,
    shape,
    ms: round(ms),
    ms_min: round(times[0]),
    ms_max: round(times.at(-1)!),
    first_ms: round(first),
    ...(tokens === undefined ? {} : { tokens_per_second: round((tokens / ms) * 1000) }),
    ...(flops === undefined ? {} : { gflops: round(flops / ms / 1e6) }),
    ...(bytes === undefined ? {} : { bytes }),
    ...(dispatches === undefined ? {} : { dispatches }),
    ...(host === undefined ? {} : { host_ms: round(host) }),
  };
}

const key = ({ name, shape }: { name: string; shape: unknown }): string => `${name} ${JSON.stringify(shape)}`;

function readEarlier(path: string): Map<string, number> {
  const found = new Map<string, number>();
  readFileSync(path, 'utf8').split('\n').forEach((text, i) => {
    if (text.trim() === '') return;
    try {
      const line = JSON.parse(text) as Line;
      found.set(key(line), line.ms);
    } catch {
      throw new UsageError(`${path}:${i + 1}: not a line of rlhf bench`);
    }
  });
  return found;
}

function row(line: Line, before: number | undefined): string {
  const shape = Object.values(line.shape).join('×');
  const rate = line.gflops !== undefined ? `${line.gflops} GFLOP/s` : line.tokens_per_second !== undefined ? `${line.tokens_per_second} tokens/s` : '';
  const ratio = before === undefined ? '' : `  ${(before / line.ms).toFixed(2)} × as fast as before`;
  return `${line.name.padEnd(20)} ${shape.padEnd(22)} ${String(line.ms).padStart(9)} ms  ${rate}${ratio}`;
}
