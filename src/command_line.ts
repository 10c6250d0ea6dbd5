import { cac, type CAC } from 'cac';
import type { AnyCommand } from './commands/command.ts';
import { UsageError } from './errors.ts';
import { camelCase, type OptionTable } from './option_types.ts';
import { show } from './option_values.ts';
import { type Typed } from './settings.ts';
import { nearest } from './suggestion.ts';

/** A call that named a command: what to run, or whether its help was asked for. */
export interface Call extends Typed {
  command: AnyCommand;
  help: boolean;
}

/**
 * Reads the words after a command's name. cac would turn `12` and `007` into numbers, take `-` and `-1e-3` for options
 * and let unknown commands pass; so every value reaches it as `--name=:value` and every other word as `:word`, and the
 * colons are taken off afterwards.
 * @throws UsageError for an unknown command or option, or an option without its value
 */
export function readCall(commands: AnyCommand[], argv: string[]): Call {
  const name = argv[0]!;
  const command = commands.find((candidate) => candidate.name === name);
  if (!command) throw unknownCommand(commands, name);
  const { guarded, help } = guardWords(command, argv.slice(1));
  const parser = declare(command);
  const parsed = parser.parse(['node', 'rlhf', name, ...guarded], { run: false });
  if (parser.matchedCommand?.name !== name) throw unknownCommand(commands, name);
  const options = new Map<string, string[]>();
  for (const option of Object.keys(command.options)) {
    const value: unknown = parsed.options[camelCase(option)];
    if (value !== undefined)
      options.set(
        option,
        [value].flat().map((text) => String(text).slice(1)),
      );
  }
  return { command, help, options, words: parsed.args.map((word) => word.slice(1)) };
}

function declare(command: AnyCommand): CAC {
  const parser = cac('rlhf');
  const declared = parser.command(command.name, command.summary);
  for (const name of Object.keys(command.options)) declared.option(`--${name} <value>`, command.options[name]!.text);
  return parser;
}

function unknownCommand(commands: AnyCommand[], name: string): UsageError {
  const near = nearest(name, [...commands.map((command) => command.name), 'help', 'completions']);
  if (name.startsWith('-'))
    return new UsageError(
      `unknown option ${show(name, false)} before the command`,
      'rlhf COMMAND [OPTIONS]; see rlhf help',
    );
  return new UsageError(
    `unknown command ${show(name)}`,
    near ? `did you mean rlhf ${near}?` : 'rlhf help lists the commands',
  );
}

function guardWords(command: AnyCommand, words: string[]): { guarded: string[]; help: boolean } {
  const table = command.options;
  const guarded: string[] = [];
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!;
    if (word === '--') {
      guarded.push(...words.slice(i + 1).map((rest) => `:${rest}`));
      break;
    }
    if (word === '--help' || word === '-h') return { guarded: [], help: true };
    if (word === '-' || !word.startsWith('-')) {
      guarded.push(`:${word}`);
      continue;
    }
    const equals = word.indexOf('=');
    const written = equals < 0 ? word : word.slice(0, equals);
    const { name, negated } = findOption(command, table, written);
    if (table[name]!.type === 'flag') {
      guarded.push(`--${name}=:${flagValue(written, equals < 0 ? undefined : word.slice(equals + 1), negated)}`);
    } else if (equals >= 0) {
      guarded.push(`--${name}=:${word.slice(equals + 1)}`);
    } else {
      const value = words[++i];
      if (value === undefined || value.startsWith('--')) {
        throw new UsageError(
          `${written} needs a value`,
          value ? `write ${written}=${show(value, false)} if that is the value` : undefined,
        );
      }
      guarded.push(`--${name}=:${value}`);
    }
  }
  return { guarded, help: false };
}

function findOption(command: AnyCommand, table: OptionTable, written: string): { name: string; negated: boolean } {
  const name = written.startsWith('--') ? written.slice(2) : '';
  if (Object.hasOwn(table, name)) return { name, negated: false };
  const positive = name.startsWith('no-') ? name.slice(3) : '';
  if (Object.hasOwn(table, positive) && table[positive]!.type === 'flag') return { name: positive, negated: true };
  const near = nearest(written.replace(/^-+/, ''), Object.keys(table));
  throw new UsageError(
    `unknown option ${show(written, false)}`,
    near ? `did you mean --${near}?` : `rlhf ${command.name} --help lists the options`,
  );
}

function flagValue(written: string, text: string | undefined, negated: boolean): boolean {
  if (text !== undefined && text !== 'true' && text !== 'false')
    throw new UsageError(`${written} takes no value, but got ${show(text)}`);
  return (text !== 'false') !== negated;
}
