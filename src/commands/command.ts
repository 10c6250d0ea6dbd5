import type { RunContext } from '../context.ts';
import type { OptionTable } from '../option_types.ts';
import type { Preset } from '../presets.ts';

/** Words after the command that are no options. */
export interface Positional {
  /** Key in the settings; with `option` the words are added to that option's values. */
  key: string;
  value: string;
  text: string;
  many?: boolean;
  required?: boolean;
  choices?: readonly string[];
  /** They name an input file or folder, which must exist. */
  exists?: boolean;
  /** They are more values of the option named by `key`. */
  option?: boolean;
}

/** A subcommand as data, and the one call into its stage. */
export interface Command<S = never> {
  name: string;
  /** One line for the main help. */
  summary: string;
  options: OptionTable;
  positional?: Positional;
  /** The option that falls back to standard input when that is not a terminal. */
  input?: string;
  /** Shown below the options. */
  examples: string[];
  presets?: Record<string, Preset>;
  /** Trains into a run folder: keeps checkpoints, can be resumed. */
  trains?: boolean;
  /** Fills in defaults that depend on other settings, and checks what involves several. Throws UsageError. */
  complete?: (settings: S) => void;
  /** Imports the stage, so that `--help` loads none, and runs it. */
  run: (context: RunContext, settings: S) => Promise<void>;
}

/** A command whose settings' type is of no interest to the reader. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type AnyCommand = Command<any>;

/** Checks that the type of `run`'s settings is what the command's stage takes. */
export const command = <S>(definition: Command<S>): Command<S> => definition;
