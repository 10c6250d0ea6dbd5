import type { RunContext } from '../context.ts';
import { writeFileAtomic } from '../files/atomic.ts';
import type { ReportSettings } from '../options.ts';
import { page } from '../report/page.ts';
import { readRun } from '../report/run_log.ts';
import { compareSamples } from '../report/samples.ts';
import { readTable } from '../report/table.ts';

/** Writes one HTML page about run folders: table, answers side by side, curves, episodes, settings. */
export async function report(settings: ReportSettings, context: RunContext): Promise<void> {
  const runs = await Promise.all(settings.runs.map((path) => readRun(path)));
  const html = page({
    title: 'Training report',
    runs,
    table: settings.table === undefined ? undefined : await readTable(settings.table),
    samples: await compareSamples(settings.samples ?? []),
    made: new Date().toISOString(),
  });
  await writeFileAtomic(settings.out, html);
  await context.stdout.write(JSON.stringify({ report: settings.out, runs: runs.length, bytes: html.length }));
}
