import { readFileSync } from 'node:fs';
import { kernelCases, sizedCases } from '../bench/kernels.ts';
import { goesBy, measure, type BenchCase, type Line } from '../bench/measure.ts';
import { modelCases } from '../bench/models.ts';
import { ppoIteration } from '../bench/ppo.ts';
import { startup } from '../bench/startup.ts';
import type { RunContext } from '../context.ts';
import { Interrupted, UsageError } from '../errors.ts';
import { adapterName } from '../gpu/device.ts';
import { turn } from '../gpu/software_driver.ts';
import type { BenchSettings } from '../options.ts';
import { openSession } from '../train/session.ts';

/**
 * Times parts of the program on this device: a JSON line each on standard output, a table on standard error. With --model,
 * training and sampling of that model. With --against, how many times as fast as the lines of an earlier run.
 */
export async function bench(settings: BenchSettings, context: RunContext): Promise<void> {
  const earlier = settings.against ? readLines(settings.against) : new Map<string, number>();
  const { info, software } = await openSession(settings, context);
  const all = [...(settings.model ? [] : kernelCases(!software, settings.dtype)), ...modelCases(settings),
    ...(settings.model ? [] : [ppoIteration(settings.dtype), startup(settings.device)])];
  const adapter = adapterName(info);
  context.log(`${adapter}; medians of up to ${settings.steps} runs`);
  for (const one of chosen(all, settings, software)) {
    const line = await measure(one, settings.steps);
    const before = earlier.get(key(line));
    if (before !== undefined) line.ratio = Number((before / line.ms).toPrecision(4));
    await context.stdout.write(JSON.stringify({ ...line, dtype: settings.dtype, adapter }));
    context.log(tableRow(line));
    await turn();
    if (context.signal.aborted) throw new Interrupted();
  }
}

/** The named cases (`gemm` stands for all that begin with `gemm_`; `gemm_nn:1000x300x200` has a size of its own), or all that suit the device. */
function chosen(cases: readonly BenchCase[], { names, model, dtype }: BenchSettings, software: boolean): BenchCase[] {
  if (names.length === 0) return cases.filter((one) => !one.named && !(one.large && software));
  return [...new Set(names.flatMap((name) => {
    if (name.includes(':') && !model) return sizedCases(name, dtype);
    const found = cases.filter((one) => one.name === name || goesBy(one.name, name) && !(one.large && software));
    if (found.length > 0) return found;
    throw new UsageError(`bench: there is no ${JSON.stringify(name)}`, `there are ${[...new Set(cases.map((one) => one.name))].join(', ')}`);
  }))];
}

/** What is the same case in two runs. */
const key = ({ name, shape }: Pick<Line, 'name' | 'shape'>): string => `${name} ${JSON.stringify(shape)}`;

/** Milliseconds of each case in a file of lines. */
function readLines(path: string): Map<string, number> {
  const found = new Map<string, number>();
  readFileSync(path, 'utf8').split('\n').forEach((text, i) => {
    if (text.trim() === '') return;
    let line: Partial<Line> | null = null;
    try {
      line = JSON.parse(text) as Partial<Line> | null;
    } catch {
      // told below
    }
    if (typeof line?.name !== 'string' || typeof line.ms !== 'number' || typeof line.shape !== 'object') {
      throw new UsageError(`--against ${path}:${i + 1}: not a line of rlhf bench`);
    }
    found.set(key(line as Line), line.ms);
  });
  return found;
}

function tableRow(line: Line): string {
  const rate = line.gflops !== undefined && line.tokens_per_second === undefined ? `${line.gflops} GFLOP/s`
    : line.episodes_per_second !== undefined ? `${line.episodes_per_second} episodes/s`
      : line.tokens_per_second !== undefined ? `${line.tokens_per_second} tokens/s`
        : line.gbytes_per_second !== undefined ? `${line.gbytes_per_second} GB/s` : '';
  const device = line.gpu_ms === undefined ? '' : `  GPU ${line.gpu_ms} ms, ${line.dispatches} dispatches, ${line.copies} copies`;
  const ratio = line.ratio === undefined ? '' : `  ${line.ratio} × as fast`;
  const parts = line.first_step_ready_ms === undefined ? '' : `  first step ready after ${line.first_step_ready_ms} ms`;
  const kernels = (line.kernels as { kernel: string; ms: number; share: number; dispatches: number }[] | undefined)?.slice(0, 8)
    .map(({ kernel, ms, share, dispatches }) =>
      `\n  ${kernel.padEnd(22)} ${String(ms).padStart(8)} ms ${(100 * share).toFixed(0).padStart(3)} %  ${dispatches} dispatches`) ?? [];
  return `${line.name.padEnd(18)} ${Object.values(line.shape).join('×').padEnd(24)} ${String(line.ms).padStart(8)} ms  ${rate}${ratio}${device}${parts}${kernels.join('')}`;
}
