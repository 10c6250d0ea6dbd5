import { createReadStream, readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { UsageError } from '../errors.ts';

/** One metric over the steps of a run, thinned to at most MAX_POINTS means of neighbouring steps. */
export interface Series {
  steps: number[];
  values: number[];
}

export interface Episode {
  prompt: string;
  completion: string;
  score?: number;
}

/** What a page shows of a run folder. */
export interface RunLog {
  path: string;
  name: string;
  command: string;
  /** rlhf.json as it stands. */
  record: Record<string, unknown>;
  series: Map<string, Series>;
  /** Some episodes of the last rollout file, where there is one. */
  rollout?: { file: string; episodes: Episode[] };
}

const MAX_POINTS = 400;
const EPISODES = 6;

/**
 * Reads rlhf.json, metrics.jsonl and the last rollouts of a run folder, finished or not. A line that a killed run left
 * unfinished is passed over.
 * @throws UsageError where the folder is not one of a run
 */
export async function readRun(path: string): Promise<RunLog> {
  const record = await readRecord(path);
  return {
    path,
    name: basename(resolve(path)),
    command: String(record.command ?? 'unknown'),
    record,
    series: await readMetrics(join(path, 'metrics.jsonl')),
    rollout: await readLastRollout(join(path, 'rollouts')),
  };
}

async function readRecord(path: string): Promise<Record<string, unknown>> {
  const file = join(path, 'rlhf.json');
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const known = code === 'ENOENT' || code === 'ENOTDIR';
    if (known) throw new UsageError(`${path}: not a run folder, it holds no rlhf.json`);
    throw new UsageError(`${file}: cannot be read (${code})`);
  }
  try {
    const record: unknown = JSON.parse(text);
    if (typeof record === 'object' && record !== null && !Array.isArray(record)) {
      return record as Record<string, unknown>;
    }
  } catch {
    // Told below, as for any other content.
  }
  throw new UsageError(`${file}: not the record of a run`);
}

/** The lines of a file as objects; none where there is no such file. */
async function* objectsOf(file: string): AsyncGenerator<Record<string, unknown>> {
  const stream = createReadStream(file);
  try {
    for await (const line of createInterface({ input: stream, crlfDelay: Infinity })) {
      try {
        const value: unknown = JSON.parse(line);
        if (typeof value === 'object' && value !== null) yield value as Record<string, unknown>;
      } catch {
        continue;
      }
    }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT') throw new UsageError(`${file}: cannot be read (${code})`);
  } finally {
    stream.destroy();
  }
}

async function readMetrics(file: string): Promise<Map<string, Series>> {
  const series = new Map<string, Series>();
  let count = 0;
  for await (const row of objectsOf(file)) {
    count++;
    const step = typeof row.step === 'number' ? row.step : count;
    for (const [name, value] of Object.entries(row)) {
      if (name === 'step' || typeof value !== 'number' || !Number.isFinite(value)) continue;
      let points = series.get(name);
      if (!points) series.set(name, (points = { steps: [], values: [] }));
      points.steps.push(step);
      points.values.push(value);
    }
  }
  for (const [name, points] of series) series.set(name, thinned(points));
  return series;
}

/** Means over equal numbers of neighbouring points; a mean stands at the last of its steps. */
export function thinned({ steps, values }: Series, most = MAX_POINTS): Series {
  const size = Math.ceil(steps.length / most);
  if (size <= 1) return { steps, values };
  const result: Series = { steps: [], values: [] };
  for (let begin = 0; begin < steps.length; begin += size) {
    const part = values.slice(begin, begin + size);
    result.steps.push(steps[begin + part.length - 1]!);
    result.values.push(part.reduce((sum, value) => sum + value, 0) / part.length);
  }
  return result;
}

async function readLastRollout(folder: string): Promise<RunLog['rollout']> {
  let files: string[];
  try {
    files = readdirSync(folder).filter((name) => /^step-\d+\.jsonl$/.test(name)).sort();
  } catch {
    return undefined;
  }
  const file = files.at(-1);
  if (file === undefined) return undefined;
  const episodes: Episode[] = [];
  for await (const { prompt, completion, score } of objectsOf(join(folder, file))) {
    if (typeof completion !== 'string') continue;
    const shown = typeof prompt === 'string' ? prompt : JSON.stringify(prompt ?? '');
    episodes.push({ prompt: shown, completion, score: typeof score === 'number' ? score : undefined });
    if (episodes.length === EPISODES) break;
  }
  return episodes.length > 0 ? { file, episodes } : undefined;
}
