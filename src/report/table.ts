import { readFile } from 'node:fs/promises';
import { UsageError } from '../errors.ts';

/** A table to show: `{"title"?, "columns": [text…], "rows": [[text or number…]…], "notes"?: [text…]}`. */
export interface Table {
  title: string;
  columns: string[];
  rows: string[][];
  notes: string[];
}

/** Reads a table file. @throws UsageError that names the file and the field */
export async function readTable(file: string): Promise<Table> {
  let value: unknown;
  try {
    value = JSON.parse(await readFile(file, 'utf8'));
  } catch (error) {
    throw new UsageError(`${file}: not JSON: ${(error as Error).message}`);
  }
  const { title = 'Results', columns, rows, notes = [] } = (value ?? {}) as Record<string, unknown>;
  const fail = (what: string): never => {
    throw new UsageError(`${file}: ${what}`, 'a table is {"columns": ["…"], "rows": [["…"]]}');
  };
  if (!isList(columns) || columns.length === 0) return fail('"columns" is not a list of texts');
  if (!isList(rows)) return fail('"rows" is not a list');
  const cells = rows.map((row, i) => {
    if (!isList(row) || row.length !== columns.length) return fail(`"rows[${i}]" is not a list of ${columns.length}`);
    return row.map(text);
  });
  return { title: text(title), columns: columns.map(text), rows: cells, notes: isList(notes) ? notes.map(text) : [] };
}

const isList = (value: unknown): value is unknown[] => Array.isArray(value);

const text = (value: unknown): string =>
  value === null || value === undefined ? '–' : typeof value === 'object' ? JSON.stringify(value) : String(value);
