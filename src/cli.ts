import { setMaxListeners } from 'node:events';
import type { Writable } from 'node:stream';
import { commands } from './commands/index.ts';
import type { AnyCommand } from './commands/command.ts';
import { readCall } from './command_line.ts';
import { completions } from './completions.ts';
import type { RunContext } from './context.ts';
import { Interrupted, RunError, UsageError } from './errors.ts';
import { outputError } from './files/atomic.ts';
import { commandHelp, completionsHelp, mainHelp } from './help.ts';
import { Progress } from './progress.ts';
import { inspectRunFolder } from './run_folder.ts';
import { show } from './option_values.ts';
import { namedSettings, resolveSettings } from './settings.ts';
import { nearest } from './suggestion.ts';
import { versions } from './versions.ts';

const exitActions: (() => void | Promise<void>)[] = [];
const interruption = new AbortController();
setMaxListeners(0, interruption.signal);
let progress: Progress | undefined;
let interrupts = 0;
let trains = false;
let exiting = false;
let hungUp = false;

/** Seconds after Ctrl-C that a command without checkpoints gets to end by itself. */
const GRACE_MS = 1500;
const EXIT_ACTIONS_MS = 5000;

async function main(argv: string[]): Promise<void> {
  const [first, second] = argv;
  switch (first) {
    case undefined:
    case '--help':
    case '-h':
      return print(mainHelp(commands, columns()));
    case 'help':
      return print(helpOn(second));
    case '--version':
    case '-v':
      return print(`rlhf ${versions.rlhf} (Dawn: webgpu ${versions.dawn}, tfjs ${versions.tfjs})`);
    case 'completions':
      if (second === '--help' || second === '-h') return print(completionsHelp);
      return print(completions(commands, second).trimEnd());
    default:
  }
  const call = readCall(commands, argv);
  if (call.help) return print(commandHelp(call.command, columns()));
  const { settings, missing } = await resolveSettings(call.command, call, process.stdin.isTTY === true);
  await run(call.command, settings, missing, argv);
}

async function run(
  command: AnyCommand,
  settings: Record<string, unknown>,
  missing: string[],
  argv: string[],
): Promise<void> {
  const context = makeContext(command, settings.quiet === true, argv);
  if (settings.dryRun === true) {
    await print(JSON.stringify(namedSettings(settings), null, 2));
    if (missing.length > 0) {
      context.log(`the cost is shown when these are given too: ${missing.map((name) => `--${name}`).join(', ')}`);
      return;
    }
  }
  trains = command.trains === true;
  if (trains && settings.dryRun !== true) {
    const folder = await inspectRunFolder({ kind: command.name, settings: settings as never });
    if (folder.state === 'complete') return context.log(`${settings.out}: already complete`);
  }
  await command.run(context, settings as never);
  progress?.end();
}

function makeContext(command: AnyCommand, quiet: boolean, argv: string[]): RunContext {
  const shown = new Progress({ quiet });
  progress = shown;
  const note = (line: string): void => {
    shown.clear();
    process.stderr.write(`${line}\n`);
  };
  return {
    stdout: { write: print },
    log: (line) => void (quiet || note(line)),
    warn: (line) => note(`rlhf: warning: ${line}`),
    progress: shown,
    signal: interruption.signal,
    onExit: (action) => void exitActions.push(action),
    argv,
    command: command.name,
    startedAt: new Date(),
  };
}

/** Writes a line to standard output; resolves when there is room for the next. */
function print(line: string): Promise<void> {
  if (process.stdout.isTTY && process.stderr.isTTY) progress?.clear();
  return new Promise((resolve) => {
    if (process.stdout.write(`${line}\n`)) resolve();
    else process.stdout.once('drain', resolve);
  });
}

/** First Ctrl-C: ask the stage to save and stop. Second: stop now. */
function interrupt(): void {
  if (hungUp && interrupts > 0) return; // a second signal of the same farewell, in whichever order, is no second Ctrl-C
  if (++interrupts > 1) {
    if (trains) process.stderr.write('stopped at once, without a checkpoint of this step\n');
    process.exit(130);
  }
  interruption.abort(new Interrupted());
  progress?.clear();
  if (trains) {
    process.stderr.write('stopping after this step, with a checkpoint; Ctrl-C again stops at once\n');
  } else {
    setTimeout(() => void exit(130), GRACE_MS).unref();
  }
}

/**
 * The terminal is gone: a run that speaks to it stops as after Ctrl-C. One whose notes go elsewhere goes on: Node undoes what `nohup` has
 * set, so that it cannot be told from a run that was put in the background.
 */
function hangUp(): void {
  if (!process.stderr.isTTY || hungUp) return;
  hungUp = true;
  interrupt();
}

/** Tells what went wrong, and exits with the code of its kind. */
async function fail(error: unknown): Promise<void> {
  if (exiting) return;
  progress?.clear();
  const told = outputError(error, 'output');
  if (told instanceof Interrupted) {
    if (told.message !== 'interrupted') process.stderr.write(`${printable(told.message)}\n`);
    return exit(130);
  }
  const { message, hint } =
    told instanceof UsageError || told instanceof RunError ? told : { message: unexpected(told), hint: undefined };
  process.stderr.write(`rlhf: error: ${printable(message)}\n`);
  if (hint !== undefined) process.stderr.write(`hint: ${printable(hint)}\n`);
  if (process.env.RLHF_DEBUG === '1' && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  await exit(told instanceof UsageError ? 2 : 1);
}

function unexpected(error: unknown): string {
  const message =
    error instanceof Error ? `${error.name === 'Error' ? '' : `${error.name}: `}${error.message}` : String(error);
  return `unexpected: ${message.split('\n')[0]} (RLHF_DEBUG=1 shows where)`;
}

/** Control characters from file names and values must not reach the terminal; lines stay lines. */
const printable = (text: string): string =>
  text.replace(/[\0-\x09\x0b-\x1f\x7f-\x9f]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`);

/** The one place where the program ends: streams are flushed, the device is closed. */
async function exit(code: number): Promise<void> {
  if (exiting) return;
  exiting = true;
  const actions = (async () => {
    for (const action of exitActions.reverse()) await (async () => action())().catch(() => undefined);
  })();
  await Promise.race([actions, new Promise((resolve) => setTimeout(resolve, EXIT_ACTIONS_MS))]);
  await Promise.all([flush(process.stdout), flush(process.stderr)]);
  if (hungUp && code === 130) {
    // Node aborts where it cannot put a terminal's modes back: end by the signal itself.
    process.off('SIGHUP', hangUp);
    process.kill(process.pid, 'SIGHUP');
  }
  process.exit(code);
}

function flush(stream: Writable): Promise<void> {
  return new Promise((resolve) => {
    if (stream.destroyed || stream.errored) resolve();
    else stream.write('', () => resolve());
  });
}

function helpOn(name: string | undefined): string {
  if (name === undefined || name === 'help') return mainHelp(commands, columns());
  if (name === 'completions') return completionsHelp;
  const command = commands.find((candidate) => candidate.name === name);
  if (command) return commandHelp(command, columns());
  const near = nearest(name, [...commands.map((candidate) => candidate.name), 'completions']);
  throw new UsageError(`help: unknown command ${show(name)}`, near ? `did you mean ${near}?` : undefined);
}

const columns = (): number => process.stdout.columns ?? 100;

process.stdout.on('error', (error: NodeJS.ErrnoException) => void (error.code === 'EPIPE' ? exit(0) : fail(error)));
process.stderr.on('error', () => undefined); // nobody reads the notes: the work goes on
process.on('SIGINT', interrupt);
process.on('SIGTERM', interrupt);
process.on('SIGHUP', hangUp);
process.on('uncaughtException', (error) => void fail(error));
process.on('unhandledRejection', (error) => void fail(error));
main(process.argv.slice(2)).then(() => exit(interrupts > 0 && !trains ? 130 : 0), fail);
