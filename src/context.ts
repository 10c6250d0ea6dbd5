import type { Progress } from './progress.ts';

/** What a stage may use of the world around it. */
export interface RunContext {
  /** Results only. Resolves when the line is taken; a reader that went away ends the program quietly. */
  stdout: { write(line: string): Promise<void> };
  /** A note on standard error, unless --quiet. */
  log(line: string): void;
  /** A warning on standard error, --quiet or not. */
  warn(line: string): void;
  progress: Progress;
  /** Raised by the first Ctrl-C: save a checkpoint and throw Interrupted. A second Ctrl-C ends the program at once. */
  signal: AbortSignal;
  /** Runs before the program exits, last registered first: closing the device, removing temporary files. */
  onExit(action: () => void | Promise<void>): void;
  /** The words of the command line after `rlhf`. */
  argv: string[];
  /** Name of the command, such as `train-sft`. */
  command: string;
  startedAt: Date;
}
