import { isDeepStrictEqual } from 'node:util';
import { existsSync, mkdirSync, realpathSync, statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join, normalize, relative, resolve, sep } from 'node:path';
import { UsageError } from './errors.ts';
import { checkOutputFolder, clearLeftovers, outputError, writeFileAtomic } from './files/atomic.ts';
import { checkUnlocked, FolderLock } from './files/lock.ts';
import { withBases } from './files/adapter.ts';
import { modelHashes, tokenizerHashes } from './files/model_hashes.ts';
import { MetricsLog } from './metrics_log.ts';
import { show } from './option_values.ts';
import { contents, dropReplaced, finishPuttingBack, hasResult, isOwn, MOVING, ownFolders, putBack, putBackLocked, removeFailed, REPLACED, setAside } from './run_files.ts';
import { kebabCase, namedSettings } from './settings.ts';
import { versions } from './versions.ts';

/** SHA-256 of a model's files by their names, for each option that names a model. */
export type ModelHashes = Record<string, Record<string, string>>;

/**
 * What rlhf.json holds. Hashes are SHA-256 in hexadecimal, times ISO 8601, `seconds` of work over all parts of the
 * run.
 */
export interface RunRecord {
  command: string;
  versions: typeof versions & { node: string };
  platform: string;
  settings: Record<string, unknown>;
  /** Where paths in the settings begin. */
  cwd?: string;
  argv?: string[];
  adapter?: unknown;
  data?: Record<string, string>;
  models?: ModelHashes;
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

/** What a folder holds: nothing of a run, an unfinished run with or without checkpoints, or a finished one. */
export type RunState = 'new' | 'started' | 'resumable' | 'complete';

/**
 * A training command's output folder: rlhf.json, metrics.jsonl and checkpoints/ from the start, the model at the end.
 */
export class RunFolder {
  readonly #began = performance.now();
  readonly #secondsBefore: number;
  /** Where paths in the record of an earlier part begin. */
  readonly #cwd?: string;

  private constructor(
    readonly path: string,
    readonly state: RunState,
    readonly record: RunRecord,
    readonly metrics: MetricsLog,
    readonly lock: FolderLock,
    cwd?: string,
  ) {
    this.#cwd = cwd;
    this.#secondsBefore = record.seconds ?? 0;
  }

  /** @internal use openRunFolder */
  static make = (path: string, state: RunState, record: RunRecord, metrics: MetricsLog, lock: FolderLock, cwd?: string): RunFolder =>
    new RunFolder(path, state, record, metrics, lock, cwd);

  get checkpoints(): string {
    return join(this.path, 'checkpoints');
  }

  /** Adds facts to rlhf.json: the adapter, what was chosen for it, counts. Written at once. */
  async note(facts: Partial<RunRecord>): Promise<void> {
    Object.assign(this.record, facts, { seconds: this.#seconds() });
    await writeFileAtomic(join(this.path, 'rlhf.json'), `${JSON.stringify(this.record, null, 2)}\n`);
  }

  /**
   * Records the hashes of the data and of the models that are read.
   * @throws UsageError where a resumed run had others
   */
  async noteInputs(data: Record<string, string>, models: ModelHashes = {}): Promise<void> {
    const before = this.record;
    if (this.state === 'resumable') {
      const known = new Map(Object.entries(before.data ?? {}).map(([source, hash]) => [pathOf(source, this.#cwd), hash]));
      for (const [source, hash] of Object.entries(data)) this.#checkSame(source, known.get(pathOf(source)), hash, 'data');
      for (const [option, files] of Object.entries(models)) {
        const own = before.models?.[option];
        if (!own) continue; // a record of an older version
        for (const file of new Set([...Object.keys(own), ...Object.keys(files)])) this.#checkSame(`--${option}: ${file}`, own[file] ?? '', files[file] ?? '', 'model');
      }
    }
    await this.note({ data: { ...before.data, ...data }, models: { ...before.models, ...models } });
  }

  #checkSame(what: string, before: string | undefined, hash: string, kind: 'data' | 'model'): void {
    if (before === undefined || before === hash) return;
    throw new UsageError(`${what}: not the ${kind} that the run in ${this.path} began with`, `use the same ${kind}, or start anew with --overwrite`);
  }

  /** The run has something to show: what --overwrite kept of the older one goes. */
  dropReplaced(): void {
    dropReplaced(this.path);
  }

  /** The model is in place, and the run over; `complete` marks it as finished. */
  async end(facts: Partial<RunRecord>, complete: boolean): Promise<void> {
    this.dropReplaced();
    await this.note(complete ? { ...facts, finished: new Date().toISOString(), complete } : facts);
    this.close();
  }

  /** Where the run has come to nothing, an older one that it was to replace is put back; returns whether there was one. */
  close(): boolean {
    if (!this.lock.held) return false;
    this.metrics.close();
    const back = putBack(this.path);
    this.lock.release();
    return back;
  }

  #seconds(): number {
    return Number((this.#secondsBefore + (performance.now() - this.#began) / 1000).toFixed(3));
  }
}

/**
 * Looks whether a training command may use its `--out`; puts back what a run that was killed in between has half moved.
 * @throws UsageError where it holds a model or checkpoints and neither --resume nor --overwrite is given, where another run is
 *   working in it, where --resume meets another command's run or other settings, where --overwrite would take away what the run
 *   reads, or where a file is in the way
 */
export async function inspectRunFolder({
  kind,
  settings,
}: RunFolderOptions): Promise<{ state: RunState; record?: RunRecord }> {
  const { resume, overwrite } = settings;
  const out = normalize(settings.out);
  checkOutputFolder(out);
  let stats;
  try {
    stats = statSync(out, { throwIfNoEntry: false });
  } catch (error) {
    throw outputError(error, out);
  }
  if (!stats) return { state: 'new' };
  await checkUnlocked(out);
  if (existsSync(join(out, MOVING))) await putBackLocked(out);
  if (overwrite) {
    refuseOwnInput(settings);
    return { state: 'new' };
  }
  const holds = contents(out);
  if (!resume) {
    if (holds.model)
      throw new UsageError(`--out: ${show(out)} holds a model`, 'go on with --resume, or replace it with --overwrite');
    if (holds.checkpoints)
      throw new UsageError(
        `--out: ${show(out)} holds checkpoints`,
        'go on with --resume, or replace them with --overwrite',
      );
    if (existsSync(join(out, REPLACED)))
      throw new UsageError(
        `--out: ${show(out)} holds an older run in ${REPLACED}/, which one that was killed was to replace`,
        'go on with --resume, replace it with --overwrite, or move its files back',
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
  checkSame(out, kind, record, settings);
  return { state: record.complete ? 'complete' : 'resumable', record };
}

/**
 * Opens the output folder of a training command: `new` runs get rlhf.json, an empty metrics.jsonl and checkpoints/;
 * `resumable` ones keep everything, and the caller cuts the metrics back to its checkpoint's step. With --overwrite an older run lies in
 * replaced/ until the new one has a checkpoint or its model, and comes back where it has come to nothing. One process at a time.
 * @throws UsageError as inspectRunFolder does; RunError where the folder cannot be written
 */
export async function openRunFolder(options: RunFolderOptions): Promise<RunFolder> {
  const { kind, settings, argv } = options;
  const { state, record: before } = await inspectRunFolder(options);
  const path = normalize(settings.out);
  const record: RunRecord =
    before && state !== 'started'
      ? { ...before, settings: namedSettings(settings), cwd: process.cwd(), argv }
      : {
          command: kind,
          versions: { ...versions, node: process.versions.node },
          platform: `${process.platform}-${process.arch}`,
          settings: namedSettings(settings),
          cwd: process.cwd(),
          argv,
          started: new Date().toISOString(),
          complete: false,
        };
  let lock: FolderLock | undefined;
  let metrics: MetricsLog | undefined;
  try {
    mkdirSync(path, { recursive: true });
    lock = await FolderLock.take(path);
    for (const folder of [path, ...ownFolders.map((name) => join(path, name))]) await clearLeftovers(folder);
    if (state === 'new' || state === 'started') await begin(path, record);
    else dropReplaced(path);
    metrics = new MetricsLog(join(path, 'metrics.jsonl'));
    const folder = RunFolder.make(path, state, record, metrics, lock, before?.cwd);
    if (state !== 'complete') await folder.note({});
    return folder;
  } catch (error) {
    metrics?.close();
    if (lock) {
      if (existsSync(join(path, MOVING))) finishPuttingBack(path);
      putBack(path);
      lock.release();
    }
    throw outputError(error, path);
  }
}

/** Options that name a folder with a model to read. */
const READ_MODELS = ['model', 'policy', 'reward', 'reference', 'value', 'select-by-reward'];

/** Hashes of the models that a run's settings name; a model that several options name is read once. */
export async function modelsRead(settings: object): Promise<ModelHashes> {
  const named = namedSettings(settings);
  const known = new Map<string, Record<string, string>>();
  const hashes: ModelHashes = {};
  for (const option of READ_MODELS) {
    const dir = named[option];
    if (typeof dir !== 'string' || dir.startsWith('cmd:')) continue;
    const path = resolve(dir);
    hashes[option] = known.get(path) ?? await modelHashes(dir);
    known.set(path, hashes[option]);
  }
  const { tokenizer } = named;
  if (typeof tokenizer === 'string') hashes.tokenizer = await tokenizerHashes(tokenizer);
  return hashes;
}

/** Options that name files to read. */
const READ_FILES = ['data', 'eval-data', 'prompts', 'demonstrations', 'pretrain', 'tokenizer-data', 'tokenizer', 'chat-template'];

function refuseOwnInput(settings: RunFolderOptions['settings']): void {
  const out = realpathSync(normalize(settings.out));
  const named = namedSettings(settings);
  for (const option of [...READ_MODELS, ...READ_FILES]) {
    const given = [named[option]].flat().filter((read) => typeof read === 'string' && read !== '-' && existsSync(read)) as string[];
    for (const read of READ_MODELS.includes(option) ? given.flatMap((dir) => [...withBases(dir)].filter((at) => existsSync(at))) : given) {
      const [first] = relative(out, realpathSync(read)).split(sep);
      if (first !== '' && first !== REPLACED && first !== MOVING && !isOwn(first!)) continue;
      throw new UsageError(`--out: ${show(settings.out)} holds what --${option} names, which --overwrite would remove`, 'choose another --out');
    }
  }
}

/** Begins a run: an older one is set aside, unless it is one that came to nothing when it was to replace another. */
async function begin(path: string, record: RunRecord): Promise<void> {
  const { model, checkpoints } = contents(path);
  if (existsSync(join(path, REPLACED)) ? hasResult(path) : model || checkpoints) setAside(path);
  else removeFailed(path);
  mkdirSync(join(path, 'checkpoints'), { recursive: true });
  await writeFileAtomic(join(path, 'rlhf.json'), `${JSON.stringify(record, null, 2)}\n`);
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

function checkSame(out: string, kind: string, record: RunRecord, settings: object): void {
  const hint = 'give the settings that the run began with, or start anew with --overwrite';
  if (record.command !== kind)
    throw new UsageError(
      `--resume: the run in ${show(out)} is one of ${show(record.command, false)}, not ${kind}`,
      hint,
    );
  const now = JSON.parse(JSON.stringify(namedSettings(settings))) as Record<string, unknown>;
  // The command of the version that the run began with may have had options that this one does not have.
  const different = Object.keys(settings).map(kebabCase)
    .filter((name) => !mayDiffer.has(name) && !sameSetting(name, record.settings[name], now[name], record.cwd))
    .sort()
    .map(
      (name) => {
        const before = record.settings[name];
        const was = isDeepStrictEqual(before, now[name]) ? pathsOf(before, record.cwd) : before; // the same words in another folder
        return `--${name} (was ${show(was ?? null, false)}, now ${show(now[name] ?? null, false)})`;
      },
    );
  if (different.length > 0)
    throw new UsageError(`--resume: other settings than the run's: ${different.join(', ')}`, hint);
}

/** Whether two values say the same: paths may be written differently. */
function sameSetting(name: string, before: unknown, now: unknown, cwd?: string): boolean {
  if (!READ_MODELS.includes(name) && !READ_FILES.includes(name)) return isDeepStrictEqual(before, now);
  return isDeepStrictEqual([pathsOf(before, cwd)].flat(), [pathsOf(now)].flat());
}

function pathsOf(value: unknown, cwd?: string): unknown {
  if (Array.isArray(value)) return value.map((item) => pathsOf(item, cwd));
  return typeof value === 'string' ? pathOf(value, cwd) : value;
}

/** What a source's or a model's name stands for: a path as such, standard input or a program as it is. */
const pathOf = (name: string, cwd = process.cwd()): string => (name === '-' || name.startsWith('cmd:') ? name : resolve(cwd, name));
