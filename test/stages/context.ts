import type { RunContext } from '../../src/context.ts';
import { Progress } from '../../src/progress.ts';

/** A context that keeps what a stage writes. */
export function recordingContext(command: string): RunContext & { lines: string[]; notes: string[] } {
  const lines: string[] = [];
  const notes: string[] = [];
  return {
    lines,
    notes,
    stdout: { write: async (line) => void lines.push(line) },
    log: (line) => void notes.push(line),
    warn: (line) => void notes.push(line),
    progress: new Progress({ quiet: true }),
    signal: new AbortController().signal,
    onExit: () => undefined,
    argv: [command],
    command,
    startedAt: new Date(0),
  };
}
