import type { RunContext } from '../context.ts';
import { closeSync, readSync, statSync } from 'node:fs';
import { UsageError } from '../errors.ts';
import { checkOutputFile, writeFileAtomic } from '../files/atomic.ts';
import { openInput } from '../files/json.ts';
import type { ReportSettings } from '../options.ts';
import { page } from '../report/page.ts';
import { readRun } from '../report/run_log.ts';
import { compareSamples } from '../report/samples.ts';
import { readTable } from '../report/table.ts';

const TITLE = 'Training report';

/** Writes one HTML page about run folders: table, answers side by side, curves, episodes, settings. */
export async function report(settings: ReportSettings, context: RunContext): Promise<void> {
  const target = checkOutputFile(settings.out);
  refuseOtherFile(target);
  const runs = await Promise.all(settings.runs.map((path) => readRun(path)));
  const samples = await compareSamples(settings.samples ?? []);
  if (settings.samples?.length && samples.length === 0) context.warn('--samples: no prompt is in all of these files, so the page has no answers side by side');
  const html = page({
    title: TITLE,
    runs,
    table: settings.table === undefined ? undefined : await readTable(settings.table),
    samples,
    made: new Date().toISOString(),
  });
  await writeFileAtomic(target, html);
  await context.stdout.write(JSON.stringify({ report: settings.out, runs: runs.length, bytes: html.length }));
}

/** A report replaces an older one; any other file is somebody's. */
function refuseOtherFile(path: string): void {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (!stats) return;
  const { fd: file } = openInput(path);
  try {
    const begin = Buffer.alloc(1024);
    const size = readSync(file, begin, 0, begin.length, 0);
    if (size > 0 && !begin.includes(`<title>${TITLE}</title>`)) {
      throw new UsageError(`--out: ${path} is a file, and no report`, 'choose another name');
    }
  } finally {
    closeSync(file);
  }
}
