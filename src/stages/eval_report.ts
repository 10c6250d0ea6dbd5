import type { RunContext } from '../context.ts';
import type { RowPolicy } from '../data/collect.ts';
import { Interrupted } from '../errors.ts';
import { turn } from '../gpu/software_driver.ts';
import type { EvalSettings } from '../options.ts';
import { bootstrap, type Statistic } from '../train/bootstrap.ts';

/** What an evaluation found; `NAME_interval` is the 95 % bootstrap interval of NAME. */
export type Report = Record<string, unknown>;

/** How rows are read, for all evaluations. */
export const rowPolicy = (settings: EvalSettings, context: RunContext): RowPolicy =>
  ({ skipBadRows: settings.skipBadRows, skipLong: settings.skipLong, warn: (line) => context.warn(line) });

/** Statistics of `units` prompts or rows, each followed by its interval; a single one has none. */
export function measured(units: number, statistics: Record<string, Statistic | undefined>, settings: EvalSettings): Report {
  const given = Object.fromEntries(Object.entries(statistics).filter((entry): entry is [string, Statistic] => entry[1] !== undefined));
  const found = bootstrap(units, given, { resamples: settings.bootstrap, seed: settings.seed });
  return Object.fromEntries(Object.entries(found).flatMap(([name, { value, interval }]) => [[name, value], ...(units > 1 ? [[`${name}_interval`, interval]] : [])]));
}

/** Passes over rows in groups of --batch-size, showing how far it is; Ctrl-C ends it. */
export async function inGroups<T>(label: string, rows: readonly T[], settings: EvalSettings, context: RunContext,
  work: (group: readonly T[]) => Promise<void>): Promise<void> {
  context.progress.start(label, { total: rows.length, unit: 'rows' });
  for (let first = 0; first < rows.length; first += settings.batchSize) {
    const group = rows.slice(first, first + settings.batchSize);
    await work(group);
    context.progress.update({ done: first + group.length });
    await turn();
    if (context.signal.aborted) throw new Interrupted();
  }
  context.progress.end();
}

/** The numbers of a report as lines of a table, those of a breakdown indented below its name. */
export function tableLines(report: Report): string[] {
  return Object.entries(report).flatMap(([name, value]): string[] => {
    if (typeof value === 'number') return [line(name, value, report[`${name}_interval`])];
    if (value === null || typeof value !== 'object' || name.endsWith('_interval')) return [];
    const parts = Object.entries(value as Record<string, Report>);
    return [name, ...parts.map(([key, { accuracy, accuracy_interval: interval, from = key, to = from }]) =>
      line(from === to ? `  ${from}` : `  ${from} to ${to}`, accuracy as number, interval))];
  });
}

function line(name: string, value: number, interval: unknown): string {
  const shown = Number.isInteger(value) ? String(value) : value.toPrecision(4);
  const [low, high] = (interval ?? []) as number[];
  return `${name.padEnd(24)}${shown.padStart(12)}${interval ? `  [${low.toPrecision(4)}, ${high.toPrecision(4)}]` : ''}`;
}
