import { UsageError } from '../errors.ts';
import type { GgufFile, GgufValue } from './gguf.ts';
import { show } from './json.ts';

/** Typed access to a GGUF file's metadata; every failure names file, key and value. */
export class GgufMetadata {
  constructor(private readonly file: GgufFile) {}

  fail(what: string): UsageError {
    return new UsageError(`${this.file.path}: ${what}`);
  }

  has(key: string): boolean {
    return this.file.metadata.has(key);
  }

  number(key: string): number;
  number(key: string, missing: undefined): number | undefined;
  number(key: string, missing?: undefined): number | undefined {
    return this.typed(key, 'number', arguments.length > 1 ? { missing } : undefined);
  }

  text(key: string): string;
  text(key: string, missing: undefined): string | undefined;
  text(key: string, missing?: undefined): string | undefined {
    return this.typed(key, 'string', arguments.length > 1 ? { missing } : undefined);
  }

  flag(key: string, missing: boolean): boolean {
    return this.typed<boolean>(key, 'boolean', { missing })!;
  }

  texts(key: string): string[] {
    const value = this.list(key);
    if (value.some((item) => typeof item !== 'string')) throw this.fail(`${key}: must be a list of texts`);
    return value as string[];
  }

  numbers(key: string): number[] {
    const value = this.list(key);
    if (value.some((item) => typeof item !== 'number')) throw this.fail(`${key}: must be a list of numbers`);
    return value as number[];
  }

  private list(key: string): Array<number | string | boolean> {
    const value: GgufValue | undefined = this.file.metadata.get(key);
    if (!Array.isArray(value)) throw this.fail(`${key}: must be a list, but is ${show(value)}`);
    return value;
  }

  private typed<T>(
    key: string,
    type: 'number' | 'string' | 'boolean',
    otherwise?: { missing: T | undefined },
  ): T | undefined {
    const value = this.file.metadata.get(key);
    if (value === undefined && otherwise) return otherwise.missing;
    if (value === undefined) throw this.fail(`${key} is missing`);
    if (typeof value !== type) throw this.fail(`${key}: must be a ${type}, but is ${show(value)}`);
    return value as T;
  }
}

/** The shortest decimal number that is the same float32: 1e-5 instead of 0.000009999999747378752. */
export function shortestFloat(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === Math.fround(value)) return short;
  }
  return value;
}
