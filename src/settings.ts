import { accessSync, constants, statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import type { AnyCommand } from './commands/command.ts';
import { UsageError } from './errors.ts';
import { camelCase, type Option, type OptionTable } from './option_types.ts';
import { checkText, didYouMean, fromJson, fromTexts, show } from './option_values.ts';
import { nearest } from './suggestion.ts';

/** What was typed after the command: option names with the texts given for each, and the other words. */
export interface Typed {
  options: Map<string, string[]>;
  words: string[];
}

/** Settings under camelCase keys, and the names of what is still missing (only where a dry run allows that). */
export interface Resolved {
  settings: Record<string, unknown>;
  missing: string[];
}

/**
 * Resolves the command's settings: the command line wins over `--config`, that over `--preset`, that over the defaults.
 * @param stdinIsTerminal whether a missing input option must not be read from standard input
 * @throws UsageError for a bad value, an unknown key, a missing file, a missing option
 */
export async function resolveSettings(command: AnyCommand, typed: Typed, stdinIsTerminal: boolean): Promise<Resolved> {
  const table = command.options;
  const given: Record<string, unknown> = {};
  for (const [name, texts] of typed.options) given[name] = fromTexts(table[name]!, texts, `--${name}`);
  const configFile = given.config as string | undefined;
  const config = configFile === undefined ? {} : await readConfig(configFile, table);
  const preset = presetValues(command, (given.preset ?? config.preset) as string | undefined);
  const values: Record<string, unknown> = {};
  for (const [name, option] of Object.entries(table)) {
    values[name] = given[name] ?? config[name] ?? preset[name] ?? option.default;
  }
  const words = takeWords(command, typed.words, values, given);
  const missing = fillInput(command, values, stdinIsTerminal);
  const mayMiss = values['dry-run'] === true && values.preset !== undefined;
  if (missing.length > 0 && !mayMiss) throw missingOption(command, missing[0]!);
  for (const [name, option] of Object.entries(table)) checkExists(option, values[name], `--${name}`);
  checkOneStdin(table, values);
  const settings: Record<string, unknown> = { ...words };
  for (const [name, value] of Object.entries(values)) settings[camelCase(name)] = value;
  command.complete?.(settings as never);
  return { settings, missing };
}

/**
 * A value for `--config` and rlhf.json: the names of the command line, without what is absent or only about this
 * call.
 */
export function namedSettings(settings: object): Record<string, unknown> {
  const named: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(settings)) {
    if (value === undefined || callOnly.has(key)) continue;
    const isShard = key === 'shard' && typeof value === 'object';
    named[kebabCase(key)] = isShard ? `${value.index}/${value.count}` : value;
  }
  return named;
}

const callOnly = new Set([
  'config',
  'preset',
  'dryRun',
  'resume',
  'overwrite',
  'quiet', // options
  'kind',
  'runs',
  'names',
  'source', // other words
]);

export const kebabCase = (key: string): string => key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

async function readConfig(path: string, table: OptionTable): Promise<Record<string, unknown>> {
  checkExists({ type: 'file', group: 'Run', text: '' }, path, '--config');
  let config: unknown;
  let keys: string[];
  try {
    const text = (await readFile(path, 'utf8')).replace(/^\uFEFF/, '');
    config = JSON.parse(text);
    keys = topKeys(text);
  } catch (error) {
    throw new UsageError(`${path}: not JSON: ${(error as Error).message}`);
  }
  if (typeof config !== 'object' || config === null || Array.isArray(config)) {
    throw new UsageError(`${path}: not a JSON object of options`);
  }
  const values: Record<string, unknown> = {};
  const twice = keys.find((key, i) => keys.indexOf(key) < i);
  if (twice !== undefined) throw new UsageError(`${path}: ${show(twice)} is there twice`);
  for (const [key, value] of Object.entries(config)) {
    const positive = key.replace(/^no-/, '');
    const option = Object.hasOwn(table, key) ? table[key] : undefined;
    const negated = Object.hasOwn(table, positive) && table[positive]!.type === 'flag' ? table[positive] : undefined;
    if (key === 'config' || (!option && !negated)) {
      const near = nearest(key, Object.keys(table));
      throw new UsageError(
        `${path}: unknown option ${show(key)}`,
        near && key !== 'config' ? `did you mean "${near}"?` : undefined,
      );
    }
    const where = `${path}: "${key}"`;
    if (!option && Object.hasOwn(config, positive)) throw new UsageError(`${path}: "${positive}" and ${show(key)} exclude each other`);
    if (option) values[key] = fromJson(option, value, where);
    else values[positive] = !fromJson(negated!, value, where);
  }
  return values;
}

/** The keys of a JSON object as they stand in its text, double ones twice. */
function topKeys(json: string): string[] {
  const keys: string[] = [];
  let depth = 0;
  let before = '';
  for (const [token] of json.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]/gs)) {
    if (depth === 1 && token.startsWith('"') && (before === '{' || before === ',')) keys.push(JSON.parse(token) as string);
    if (token === '{' || token === '[') depth++;
    if (token === '}' || token === ']') depth--;
    before = token;
  }
  return keys;
}

function presetValues(command: AnyCommand, name: string | undefined): Record<string, unknown> {
  if (name === undefined) return {};
  const presets = command.presets ?? {};
  if (!Object.hasOwn(presets, name)) {
    const names = Object.keys(presets);
    throw new UsageError(
      `--preset: ${command.name} has no preset ${show(name)}`,
      names.length > 0 ? `its presets are ${names.join(', ')}` : undefined,
    );
  }
  return presets[name]!;
}

/** Puts the command's other words where they belong, beside what was `given` as options (not in a file), and refuses those it has no use for. */
function takeWords(command: AnyCommand, words: string[], values: Record<string, unknown>,
  given: Record<string, unknown>): Record<string, unknown> {
  const { positional } = command;
  const allowed = positional ? (positional.many ? Infinity : 1) : 0;
  if (words.length > allowed) {
    const listed = Object.entries(command.options).find(
      ([, option]) => option.type === 'files' && option.required,
    )?.[0];
    throw new UsageError(
      `${command.name}: unexpected argument ${show(words[allowed])}`,
      listed
        ? `repeat the option for several files: --${listed} FILE --${listed} FILE`
        : `see rlhf ${command.name} --help`,
    );
  }
  if (!positional) return {};
  const { key, value, choices, required, exists, many, option } = positional;
  if (required && words.length === 0) {
    const hint = choices ? `one of ${choices.join(', ')}` : `see rlhf ${command.name} --help`;
    throw new UsageError(`${command.name}: ${value} is missing`, hint);
  }
  for (const word of words) {
    if (choices && !choices.includes(word)) {
      throw new UsageError(
        `${command.name}: ${show(word)} is not one of ${choices.join(', ')}`,
        didYouMean(word, choices),
      );
    }
    checkText(word, value);
    if (exists && (word !== '-' || !option)) checkReadable(word, value);
  }
  if (!option) return { [key]: many ? words : words[0] };
  const type = command.options[key]!.type;
  if (type === 'files') {
    if (words.length > 0) values[key] = [...((given[key] as string[] | undefined) ?? []), ...words];
  } else if (words.length > 0) {
    if (given[key] !== undefined && given[key] !== words[0]) {
      throw new UsageError(`--${key} is given twice: ${show(given[key])} and ${show(words[0])}`);
    }
    values[key] = words[0];
  }
  return {};
}

/**
 * Lets the input option read standard input when that is no terminal; returns the obligatory options that nobody
 * gave.
 */
function fillInput(command: AnyCommand, values: Record<string, unknown>, stdinIsTerminal: boolean): string[] {
  const missing = Object.entries(command.options)
    .filter(([name, option]) => option.required && values[name] === undefined)
    .map(([name]) => name);
  const { input } = command;
  if (input === undefined || !missing.includes(input) || stdinIsTerminal) return missing;
  const others = missing.filter((name) => name !== input);
  if (others.length === 0) values[input] = ['-'];
  return others;
}

function missingOption(command: AnyCommand, name: string): UsageError {
  const option = command.options[name]!;
  const hint =
    name === command.input
      ? `give --${name} ${option.value}, or pipe rows into standard input`
      : `${option.text.replace(/\.$/, '')}: --${name} ${option.value}`;
  return new UsageError(`${command.name} needs --${name}`, hint);
}

function checkExists(option: Option, value: unknown, where: string): void {
  if (value === undefined) return;
  switch (option.type) {
    case 'files':
      for (const item of value as string[]) if (item !== '-') checkReadable(item, where);
      return;
    case 'file':
      if (value !== '-') checkReadable(value as string, where);
      return;
    case 'path':
      if (value === '-') throw new UsageError(`${where}: a name is needed, not - for standard output`, './- is a file of that name');
      return;
    case 'reward':
    case 'folder': {
      const folder = value as string;
      if (option.type === 'reward' && folder.startsWith('cmd:')) {
        if (folder.slice(4).trim() === '') throw new UsageError(`${where}: no program after cmd:`);
        return;
      }
      let stats;
      try {
        stats = statSync(folder);
      } catch (error) {
        throw unreadable(
          error,
          folder,
          where,
          'no such folder',
          'a model is a folder on this machine; none is downloaded',
        );
      }
      if (!stats.isDirectory()) throw new UsageError(`${where}: not a folder: ${show(folder)}`);
      return;
    }
    default:
  }
}

function checkReadable(path: string, where: string): void {
  let stats;
  try {
    stats = statSync(path);
    accessSync(path, constants.R_OK);
  } catch (error) {
    throw unreadable(error, path, where, 'no such file');
  }
  if (where.startsWith('--') && stats.isDirectory())
    throw new UsageError(`${where}: a folder, not a file: ${show(path)}`);
}

function unreadable(error: unknown, path: string, where: string, absent: string, hint?: string): UsageError {
  const { code } = error as NodeJS.ErrnoException;
  if (code === 'ENOENT' || code === 'ENOTDIR') return new UsageError(`${where}: ${absent}: ${show(path)}`, hint);
  const why = code === 'EACCES' ? 'not readable' : `cannot be read (${code})`;
  return new UsageError(`${where}: ${why}: ${show(path)}`);
}

function checkOneStdin(table: OptionTable, values: Record<string, unknown>): void {
  const readers = Object.entries(table).flatMap(([name, { type }]) => {
    const named =
      type === 'files' ? ((values[name] as string[] | undefined) ?? []) : type === 'file' ? [values[name]] : [];
    return named.filter((item) => item === '-').map(() => `--${name}`);
  });
  if (readers.length > 1) throw new UsageError(`${readers[0]} and ${readers[1]} both read standard input (-)`);
}
