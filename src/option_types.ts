/** Headings of `--help`, in the order in which they are shown. */
export const groups = [
  'Models',
  'Data',
  'Output',
  'Architecture',
  'Schedule',
  'Optimiser',
  'Demonstrations',
  'Pretraining mix',
  'Reward model',
  'PPO',
  'Sampling',
  'Evaluation',
  'LoRA',
  'Labeling',
  'Benchmark',
  'Run',
  'Device',
] as const;
export type Group = (typeof groups)[number];

/**
 * How the text of a value is read. `file`, `files` and `folder` must exist ('-' is standard input); `path` is written,
 * so it need not. `files` and `strings` are repeated, `list` is split at commas, `size` is bytes with K, M, G or T
 * (powers of 1024), `shard` is `i/n`, `reward` is a model folder or `cmd:PROGRAM`.
 */
export type OptionType =
  | 'number'
  | 'integer'
  | 'string'
  | 'strings'
  | 'flag'
  | 'choice'
  | 'file'
  | 'files'
  | 'folder'
  | 'path'
  | 'list'
  | 'size'
  | 'shard'
  | 'reward';

/** Rows j with j mod count = index are this process's. */
export interface Shard {
  index: number;
  count: number;
}

/** One option as data. V is the type that a stage sees in its settings. */
export interface Option<V = unknown> {
  type: OptionType;
  group: Group;
  /** One sentence for `--help`. */
  text: string;
  /** The name that `--help` shows for the value, in capitals. */
  value?: string;
  default?: V;
  /** What `--help` says where the default depends on other options. */
  defaultText?: string;
  required?: boolean;
  choices?: readonly string[];
  /** Bounds: min and max belong to the range, above and below do not. */
  min?: number;
  max?: number;
  above?: number;
  below?: number;
}

/** The options of one command by their names on the command line. */
export type OptionTable = Record<string, Option>;

export type ValueOf<O> = O extends Option<infer V> ? V : never;

type Camel<S extends string> = S extends `${infer Head}-${infer Tail}` ? `${Head}${Capitalize<Camel<Tail>>}` : S;

/** What a stage receives for a table: the options' values under camelCase keys. */
export type SettingsOf<T> = { [K in keyof T & string as Camel<K>]: ValueOf<T[K]> };

export const camelCase = (name: string): string => name.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase());

type Extra = Partial<Omit<Option, 'type' | 'group' | 'text' | 'default'>>;

/** A number without a default of its own: absent unless given, or given by the command's table. */
export const number = (group: Group, text: string, extra: Extra = {}): Option<number | undefined> => ({
  type: 'number',
  group,
  text,
  value: 'X',
  ...extra,
});

export const integer = (group: Group, text: string, extra: Extra = {}): Option<number | undefined> => ({
  type: 'integer',
  group,
  text,
  value: 'N',
  ...extra,
});

export const string = (group: Group, text: string, extra: Extra = {}): Option<string | undefined> => ({
  type: 'string',
  group,
  text,
  value: 'TEXT',
  ...extra,
});

/** Options whose value is the name of something on the disk. */
export const folder = (group: Group, text: string, extra: Extra = {}): Option<string | undefined> => ({
  type: 'folder',
  group,
  text,
  value: 'DIR',
  ...extra,
});

export const file = (group: Group, text: string, extra: Extra = {}): Option<string | undefined> => ({
  type: 'file',
  group,
  text,
  value: 'FILE',
  ...extra,
});

export const path = (group: Group, text: string, extra: Extra = {}): Option<string | undefined> => ({
  type: 'path',
  group,
  text,
  value: 'PATH',
  ...extra,
});

export const files = (group: Group, text: string, extra: Extra = {}): Option<string[] | undefined> => ({
  type: 'files',
  group,
  text,
  value: 'FILE',
  ...extra,
});

/** A yes-or-no option: `--name` or `--no-name`. */
export const flag = (group: Group, text: string, initial = false): Option<boolean> => ({
  type: 'flag',
  group,
  text,
  default: initial,
});

export const choice = <C extends string>(group: Group, text: string, choices: readonly C[]): Option<C | undefined> => ({
  type: 'choice',
  group,
  text,
  choices,
  value: choices.join('|'),
});

type Defaults<T> = { [K in keyof T]: NonNullable<ValueOf<T[K]>> };

type Filled<T, K> = { [N in keyof T]: N extends K ? Option<NonNullable<ValueOf<T[N]>>> : T[N] };

/** The table with some options' defaults set or replaced: their values are then never absent. */
export function withDefaults<T, K extends keyof T>(table: T, defaults: Pick<Defaults<T>, K>): Filled<T, K> {
  const filled = { ...table } as Record<string, unknown>;
  for (const [name, value] of Object.entries<unknown>(defaults))
    filled[name] = { ...(filled[name] as Option), default: value };
  return filled as Filled<T, K>;
}

/** The table with some options made obligatory. */
export function requiring<T, K extends keyof T & string>(table: T, ...names: K[]): Filled<T, K> {
  const filled = { ...table } as Record<string, unknown>;
  for (const name of names) filled[name] = { ...(filled[name] as Option), required: true };
  return filled as Filled<T, K>;
}
