import { Interrupted, UsageError } from '../errors.ts';
import type { RunContext } from '../context.ts';
import { checkOutputFile } from '../files/atomic.ts';
import { agreements, readRankings } from '../label/agreement.ts';
import { RankingsFile } from '../label/rankings_file.ts';
import { serveLabels } from '../label/server.ts';
import { Session } from '../label/session.ts';
import { rankedIds, readTasks } from '../label/tasks.ts';
import { rankInTerminal } from '../label/terminal.ts';
import type { LabelSettings } from '../options.ts';

/**
 * People rank the answers to each prompt, in the browser or the terminal; each ranking is appended to `--out` and on
 * the disk before the next prompt is shown. Prompts that this labeler has ranked there are left out. With `agreement`
 * prints how far the labelers of rankings files agree, one JSON line for each two of them.
 */
export async function label(settings: LabelSettings, context: RunContext): Promise<void> {
  if (settings.agreement) return printAgreement(settings.data, context);
  const { out, labeler, seed } = settings;
  if (out === undefined) throw new UsageError('label needs --out', 'the file that the rankings are appended to');
  checkOutputFile(out);
  const tasks = await readTasks(settings.data, labeler, seed);
  const file = new RankingsFile(out);
  try {
    const session = new Session(tasks, file.isEmpty ? new Set() : await rankedIds(out, labeler), file, labeler);
    if (session.done > 0) context.log(`${session.done} of ${session.total} prompts are ranked already`);
    if (session.next()) {
      if (settings.terminal) await rankInTerminal(session, process.stdin, process.stderr);
      else await rankInBrowser(session, settings.port, context);
    }
    const summary = { out, labeler, ranked: session.done, total: session.total };
    await context.stdout.write(JSON.stringify(summary));
  } finally {
    file.close();
  }
}

async function rankInBrowser(session: Session, port: number, context: RunContext): Promise<void> {
  const server = await serveLabels(session, port);
  context.onExit(server.close);
  context.log(`ranking page at ${server.url} (Ctrl-C ends; every ranking is saved at once)`);
  const stopped = new Promise<never>((_, reject) => {
    context.signal.addEventListener('abort', () =>
      reject(new Interrupted(`${session.done} of ${session.total} prompts ranked; the same command goes on`)));
  });
  try {
    await Promise.race([server.finished, stopped]);
  } finally {
    server.close();
  }
}

async function printAgreement(files: string[], context: RunContext): Promise<void> {
  const rankings = await readRankings(files);
  const found = agreements(rankings);
  if (found.length === 0) {
    const who = [...rankings.keys()].map((name) => JSON.stringify(name)).join(', ');
    throw new UsageError(`--agreement: no prompt is ranked by two labelers (found ${who})`);
  }
  for (const agreement of found) await context.stdout.write(JSON.stringify(agreement));
}
