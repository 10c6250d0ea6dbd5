import { UsageError } from '../errors.ts';
import { readRows, type BadRow, type JsonObject, type ReadOptions, type Row, type SourceDigest } from './jsonl.ts';

/** A row that cannot be used; the message says what is wrong, the reader adds `file:line: `. */
export class RowError extends Error {
  constructor(message: string, readonly hint?: string) {
    super(message);
    this.name = 'RowError';
  }
}

/** A row that does not fit the context: `skipLong` drops it. */
export class RowTooLong extends RowError {
  constructor(message: string) {
    super(message, '--truncate cuts such rows, --skip-long drops them');
    this.name = 'RowTooLong';
  }
}

export interface RowPolicy extends ReadOptions {
  /** Count and drop bad rows instead of failing; undefined where the command has no option for it. */
  skipBadRows?: boolean;
  /** Count and drop rows that are too long for the context. */
  skipLong?: boolean;
  /** Is told, in one line each, what was dropped. */
  warn?: (message: string) => void;
}

/** Turns a row into what a stage works on; throws a RowError for a row that it cannot use. */
export type RowReader<T> = (value: JsonObject, row: Row) => T;

/** What was read, and how many rows skipBadRows and skipLong dropped. */
export interface ReadThrough {
  sources: SourceDigest[];
  bad: number;
  long: number;
}

export interface Collected<T> extends ReadThrough {
  rows: T[];
}

const LISTED = 10;
/** Enough to see that the file is of another kind: a broken file of any size fails soon. */
const GIVE_UP_AFTER = 1000;

/** All rows of the sources, as `readAll` reads them. */
export async function collectRows<T>(
  sources: readonly string[],
  read: RowReader<T>,
  policy: RowPolicy = {},
): Promise<Collected<T>> {
  const rows: T[] = [];
  return { rows, ...await readAll(sources, read, (row) => rows.push(row), policy) };
}

/**
 * Reads all rows of the sources, for training, and has `keep` keep them. Bad rows fail it with one UsageError that lists the first ten,
 * a line each, or are dropped where the policy says so. No row left is a UsageError, too.
 */
export async function readAll<T>(
  sources: readonly string[],
  read: RowReader<T>,
  keep: (row: T) => void,
  policy: RowPolicy = {},
): Promise<ReadThrough> {
  const digests: SourceDigest[] = [];
  let kept = 0;
  const dropped = { bad: 0, long: 0 };
  const listed: string[] = [];
  let hint: string | undefined;
  let bad = 0;
  const onSource = (digest: SourceDigest) => {
    digests.push(digest);
    policy.onSource?.(digest);
  };
  for await (const row of readRows(sources, { ...policy, onSource })) {
    const result = attempt(row, read);
    if ('item' in result) {
      keep(result.item);
      kept++;
    } else if (!drop(result.error, policy, dropped)) {
      bad++;
      hint ??= result.error.hint;
      if (listed.length < LISTED) listed.push(`${row.source}:${row.line}: ${result.error.message}`);
      if (bad === GIVE_UP_AFTER) break;
    }
  }
  if (bad > LISTED) listed.push(`… and ${bad === GIVE_UP_AFTER ? 'many' : bad - LISTED} more bad rows`);
  if (bad > 0) throw new UsageError(listed.join('\n'), hint ?? hintOf(policy));
  report(dropped, policy);
  if (kept === 0) throw new UsageError(`${sources.join(', ')}: no usable rows`);
  return { sources: digests, ...dropped };
}

/**
 * The rows of the sources one by one, for commands that answer while they read: all that come before the first bad
 * row, then a UsageError for that one. Rows that the policy drops are counted and skipped.
 */
export async function* streamRows<T>(
  sources: readonly string[],
  read: RowReader<T>,
  policy: RowPolicy = {},
): AsyncGenerator<{ row: Row; item: T }> {
  const dropped = { bad: 0, long: 0 };
  for await (const row of readRows(sources, policy)) {
    const result = attempt(row, read);
    if ('item' in result) {
      yield { row: row as Row, item: result.item };
    } else if (!drop(result.error, policy, dropped)) {
      const { message, hint } = result.error;
      throw new UsageError(`${row.source}:${row.line}: ${message}`, hint ?? hintOf(policy));
    }
  }
  report(dropped, policy);
}

/** Commands without the option do not say whether bad rows are to be dropped. */
const hintOf = ({ skipBadRows }: RowPolicy): string | undefined =>
  skipBadRows === undefined ? undefined : '--skip-bad-rows drops such rows';

function attempt<T>(row: Row | BadRow, read: RowReader<T>): { item: T } | { error: RowError } {
  if ('error' in row) return { error: new RowError(row.error) };
  try {
    return { item: read(row.value, row) };
  } catch (error) {
    if (error instanceof RowError) return { error };
    throw error;
  }
}

function drop(error: RowError, policy: RowPolicy, dropped: { bad: number; long: number }): boolean {
  if (policy.skipLong && error instanceof RowTooLong) dropped.long++;
  else if (policy.skipBadRows) dropped.bad++;
  else return false;
  return true;
}

function report(dropped: { bad: number; long: number }, policy: RowPolicy): void {
  const count = (n: number) => `${n} ${n === 1 ? 'row' : 'rows'}`;
  if (dropped.bad > 0) policy.warn?.(`dropped ${count(dropped.bad)} that could not be used (--skip-bad-rows)`);
  if (dropped.long > 0) policy.warn?.(`dropped ${count(dropped.long)} too long for the context (--skip-long)`);
}

/** SHA-256 of each source by its name, as a run's record keeps them. */
export const hashesOf = (sources: readonly SourceDigest[]): Record<string, string> =>
  Object.fromEntries(sources.map(({ source, sha256 }) => [source, sha256]));
