import type { Row } from './jsonl.ts';

/**
 * The row's line with these fields added, or put in the place of its own where it has them; a field given as undefined
 * is taken out. All other fields stay as they are written, character for character: numbers keep their digits.
 */
export function withFields(row: Pick<Row, 'text'>, fields: Record<string, unknown>): string {
  const added = new Map(Object.entries(fields).filter(([, value]) => value !== undefined));
  const parts: string[] = [];
  for (const { key, begin, end } of members(row.text)) {
    if (!Object.hasOwn(fields, key)) {
      parts.push(row.text.slice(begin, end));
    } else if (added.has(key)) {
      parts.push(member(key, added.get(key)));
      added.delete(key);
    }
  }
  for (const [key, value] of added) parts.push(member(key, value));
  return `{${parts.join(',')}}`;
}

function member(key: string, value: unknown): string {
  return `${JSON.stringify(key)}:${JSON.stringify(value)}`;
}

/** The members of a JSON object that is known to be valid: key and where `"key": value` stands in the text. */
function members(text: string): { key: string; begin: number; end: number }[] {
  const found: { key: string; begin: number; end: number }[] = [];
  let i = skipSpace(text, text.indexOf('{') + 1);
  while (text[i] !== '}') {
    const begin = i;
    const keyEnd = skipString(text, i);
    const key = JSON.parse(text.slice(begin, keyEnd)) as string;
    i = skipValue(text, skipSpace(text, keyEnd) + 1);
    found.push({ key, begin, end: i });
    if (text[i] === ',') i = skipSpace(text, i + 1);
  }
  return found;
}

function skipSpace(text: string, i: number): number {
  while (text[i] === ' ' || text[i] === '\t' || text[i] === '\r' || text[i] === '\n') i++;
  return i;
}

/** From the opening quote to behind the closing one. */
function skipString(text: string, i: number): number {
  for (i++; text[i] !== '"'; i++) if (text[i] === '\\') i++;
  return i + 1;
}

/** To the comma or the brace that ends the member. */
function skipValue(text: string, i: number): number {
  for (let depth = 0; ; ) {
    const char = text[i];
    if (char === '"') {
      i = skipString(text, i);
      continue;
    }
    if (depth === 0 && (char === ',' || char === '}')) return i;
    if (char === '{' || char === '[') depth++;
    else if (char === '}' || char === ']') depth--;
    i++;
  }
}
