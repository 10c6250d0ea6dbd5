import { isDeepStrictEqual } from 'node:util';
import { existsSync, mkdirSync, readdirSync, realpathSync, rmSync, statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join, sep } from 'node:path';
import { UsageError } from './errors.ts';
import { clearLeftovers, outputError, removeWhole, writeFileAtomic } from './files/atomic.ts';
import { MetricsLog } from './metrics_log.ts';
import { show } from './option_values.ts';
import { namedSettings } from './settings.ts';
import { versions } from './versions.ts';

/**
 * What rlhf.json holds. Hashes are SHA-256 in hexadecimal, times ISO 8601, `seconds` of work over all parts of the
 * run.
 */
export interface RunRecord {
  command: string;
  versions: typeof versions & { node: string };
  platform: string;
  settings: Record<string, unknown>;
  argv?: string[];
  adapter?: unknown;
  data?: Record<string, string>;
  started: string;
  finished?: string;
  seconds?: number;
  complete: boolean;
  [more: string]: unknown;
}

export interface RunFolderOptions {
  /** The training command. */
  kind: string;
  /** Its resolved settings, with `out`, `resume` and `overwrite`. */
  settings: { out: string; resume: boolean; overwrite: boolean };
  argv?: string[];
}

/**
 * Settings that a resumed run may change: they touch neither the numbers nor what is evaluated. Another device may
 * round differently, but moving a run to another machine is wanted; `memory` only matters where `micro-batch-tokens`
 * is not recorded yet.
 */
const mayDiffer = new Set(['out', 'device', 'memory', 'save-every', 'max-steps']);

/** What makes a folder one that must not be written over unasked. */
const modelFiles = [
  'config.json',
  'model.safetensors',
  'model.safetensors.index.json',
  'adapter_config.json',
  'adapter_model.safetensors',
  'tokenizer.json',
  'tokenizer_config.json',
  'generation_config.json',
  'special_tokens_map.json',
  'chat_template.jinja',
];
const isWeights = (name: string): boolean => /^(model|adapter_model)(-\d{5}-of-\d{5})?\.safetensors$/.test(name);
const ownFolders = ['checkpoints', 'rollouts', 'raw', 'value'];

/** What a folder holds: nothing of a run, an unfinished run with or without checkpoints, or a finished one. */
export type RunState = 'new' | 'started' | 'resumable' | 'complete';

/**
 * A training command's output folder: rlhf.json, metrics.jsonl and checkpoints/ from the start, the model at the end.
 */
export class RunFolder {
  readonly #began = performance.now();
  readonly #secondsBefore: number;

  private constructor(
    readonly path: string,
    readonly state: RunState,
    readonly record: RunRecord,
    readonly metrics: MetricsLog,
  ) {
    this.#secondsBefore = record.seconds ?? 0;
  }

  /** @internal use openRunFolder */
  static make = (path: string, state: RunState, record: RunRecord, metrics: MetricsLog): RunFolder =>
    new RunFolder(path, state, record, metrics);

  get checkpoints(): string {
    return join(this.path, 'checkpoints');
  }

  /** Adds facts to rlhf.json: the adapter, what was chosen for it, counts. Written at once. */
  async note(facts: Partial<RunRecord>): Promise<void> {
    Object.assign(this.record, facts, { seconds: this.#seconds() });
    await writeFileAtomic(join(this.path, 'rlhf.json'), `${JSON.stringify(this.record, null, 2)}\n`);
  }

  /**
   * Records the hashes of the data that was read.
   * @throws UsageError where a resumed run had other data
   */
  async noteData(hashes: Record<string, string>): Promise<void> {
    const before = this.record.data;
    if (this.state === 'resumable' && before) {
      for (const [source, hash] of Object.entries(hashes)) {
        if (before[source] !== undefined && before[source] !== hash) {
          throw new UsageError(
            `${source}: not the data that the run in ${this.path} began with`,
            'use the same file, or start anew with --overwrite',
          );
        }
      }
    }
    await this.note({ data: { ...before, ...hashes } });
  }

  /** The model is in place: marks the run as finished. */
  async finish(facts: Partial<RunRecord> = {}): Promise<void> {
    await this.note({ ...facts, finished: new Date().toISOString(), complete: true });
    this.close();
  }

  close(): void {
    this.metrics.close();
  }

  #seconds(): number {
    return Number((this.#secondsBefore + (performance.now() - this.#began) / 1000).toFixed(3));
  }
}

/**
 * Looks whether a training command may use its `--out`, without writing.
 * @throws UsageError where it holds a model or checkpoints and neither --resume nor --overwrite is given, where
 *   --resume meets another command's run or other settings, where --overwrite would remove a model that the run reads, or where a
 *   file is in the way
 */
export async function inspectRunFolder({
  kind,
  settings,
}: RunFolderOptions): Promise<{ state: RunState; record?: RunRecord }> {
  const { out, resume, overwrite } = settings;
  let stats;
  try {
    stats = statSync(out, { throwIfNoEntry: false });
  } catch (error) {
    throw outputError(error, out);
  }
  if (stats && !stats.isDirectory()) throw new UsageError(`--out: a file is in the way: ${show(out)}`);
  if (stats && overwrite) refuseOwnInput(settings);
  if (!stats || overwrite) return { state: 'new' };
  const holds = contents(out);
  if (!resume) {
    if (holds.model)
      throw new UsageError(`--out: ${show(out)} holds a model`, 'go on with --resume, or replace it with --overwrite');
    if (holds.checkpoints)
      throw new UsageError(
        `--out: ${show(out)} holds checkpoints`,
        'go on with --resume, or replace them with --overwrite',
      );
    return { state: 'new' };
  }
  const record = await readRecord(out);
  if (!record) {
    if (holds.model || holds.checkpoints) {
      throw new UsageError(
        `--resume: ${show(out)} holds a model but no rlhf.json of a run`,
        'choose another --out, or replace it with --overwrite',
      );
    }
    return { state: 'new' };
  }
  if (!holds.checkpoints && !record.complete) return { state: 'started', record };
  checkSame(out, kind, record, namedSettings(settings));
  return { state: record.complete ? 'complete' : 'resumable', record };
}

/**
 * Opens the output folder of a training command: `new` runs get rlhf.json, an empty metrics.jsonl and checkpoints/;
 * with --overwrite what an older run left is removed first; `resumable` ones keep everything, and the caller cuts the
 * metrics back to its checkpoint's step.
 * @throws UsageError as inspectRunFolder does; RunError where the folder cannot be written
 */
export async function openRunFolder(options: RunFolderOptions): Promise<RunFolder> {
  const { kind, settings, argv } = options;
  const { state, record: before } = await inspectRunFolder(options);
  const path = settings.out;
  const record: RunRecord =
    before && state !== 'started'
      ? { ...before, argv }
      : {
          command: kind,
          versions: { ...versions, node: process.versions.node },
          platform: `${process.platform}-${process.arch}`,
          settings: namedSettings(settings),
          argv,
          started: new Date().toISOString(),
          complete: false,
        };
  try {
    mkdirSync(join(path, 'checkpoints'), { recursive: true });
    await clearLeftovers(path);
    await clearLeftovers(join(path, 'checkpoints'));
    if (state === 'new' || state === 'started') await removeRun(path, record);
    const metrics = new MetricsLog(join(path, 'metrics.jsonl'));
    const folder = RunFolder.make(path, state, record, metrics);
    if (state !== 'complete') await folder.note({});
    return folder;
  } catch (error) {
    throw outputError(error, path);
  }
}

/** Options that name a folder with a model to read. */
const READ = ['model', 'policy', 'reward', 'reference', 'value', 'select-by-reward'];

function refuseOwnInput(settings: RunFolderOptions['settings']): void {
  const out = realpathSync(settings.out);
  const named = namedSettings(settings);
  for (const option of READ) {
    const read = named[option];
    if (typeof read !== 'string' || !existsSync(read) || !`${realpathSync(read)}${sep}`.startsWith(`${out}${sep}`)) continue;
    throw new UsageError(`--out: ${show(settings.out)} holds what --${option} names, which --overwrite would remove`, 'choose another --out');
  }
}

function contents(path: string): { model: boolean; checkpoints: boolean } {
  const names = readdirSync(path);
  const checkpoints = join(path, 'checkpoints');
  const inside = existsSync(checkpoints) && statSync(checkpoints).isDirectory() ? readdirSync(checkpoints) : [];
  return {
    model: names.some((name) => name === 'config.json' || name.startsWith('adapter_') || isWeights(name)),
    checkpoints: inside.some((name) => !name.startsWith('.') && !/\.tmp-/.test(name)),
  };
}

/**
 * Removes what runs write, and nothing else: the folder may hold other files. Killed in between, it leaves the old run whole
 * but for its checkpoints, or one that has just started: the new record stands before anything else goes.
 */
async function removeRun(path: string, record: RunRecord): Promise<void> {
  removeWhole(join(path, 'checkpoints'));
  await writeFileAtomic(join(path, 'rlhf.json'), `${JSON.stringify(record, null, 2)}\n`);
  for (const name of ownFolders) removeWhole(join(path, name));
  const files = readdirSync(path).filter((name) => name === 'metrics.jsonl' || modelFiles.includes(name) || isWeights(name));
  // Weights first: there are none without their config.
  for (const name of files.sort((a, b) => Number(isWeights(b)) - Number(isWeights(a)))) rmSync(join(path, name));
  mkdirSync(join(path, 'checkpoints'));
}

async function readRecord(path: string): Promise<RunRecord | undefined> {
  const file = join(path, 'rlhf.json');
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new UsageError(`${file}: cannot be read (${(error as NodeJS.ErrnoException).code})`);
  }
  try {
    const record = JSON.parse(text) as RunRecord;
    if (typeof record.command === 'string' && typeof record.settings === 'object' && record.settings !== null)
      return record;
  } catch {
    // Told below, like any other content that is no record.
  }
  throw new UsageError(`${file}: not the record of a run`, 'start anew with --overwrite');
}

function checkSame(out: string, kind: string, record: RunRecord, settings: Record<string, unknown>): void {
  const hint = 'give the settings that the run began with, or start anew with --overwrite';
  if (record.command !== kind)
    throw new UsageError(
      `--resume: the run in ${show(out)} is one of ${show(record.command, false)}, not ${kind}`,
      hint,
    );
  const now = JSON.parse(JSON.stringify(settings)) as Record<string, unknown>;
  const different = [...new Set([...Object.keys(record.settings), ...Object.keys(now)])]
    .filter((name) => !mayDiffer.has(name) && !isDeepStrictEqual(record.settings[name], now[name]))
    .sort()
    .map(
      (name) => `--${name} (was ${show(record.settings[name] ?? null, false)}, now ${show(now[name] ?? null, false)})`,
    );
  if (different.length > 0)
    throw new UsageError(`--resume: other settings than the run's: ${different.join(', ')}`, hint);
}
