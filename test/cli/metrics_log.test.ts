import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { RunError } from '../../src/errors.ts';
import { openRunFolder } from '../../src/run_folder.ts';
import { begin } from './run_folders.ts';

test('appending to a full disk fails the run', async () => {
  if (!existsSync('/dev/full')) return;
  const { MetricsLog } = await import('../../src/metrics_log.ts');
  const log = new MetricsLog('/dev/full');
  try {
    log.append({ step: 1 });
    assert.unreachable('written');
  } catch (error) {
    assert.instance(error, RunError);
    assert.match((error as Error).message, /disk is full/);
  }
});

test('metrics are cut back to a step, and a torn last line goes', async () => {
  const run = await openRunFolder(begin());
  const path = join(run.path, 'metrics.jsonl');
  for (let step = 1; step <= 5; step++) run.metrics.append({ step, loss: step / 3, note: 'é' });
  run.metrics.append({ step: 5, eval_loss: NaN });
  run.metrics.sync();
  appendFileSync(path, '{"step":6,"lo');
  const lines = () => readFileSync(path, 'utf8').split('\n');
  run.metrics.cutBack(9);
  assert.is(lines().length, 7);
  assert.is(lines()[5], '{"step":5,"eval_loss":null}');
  run.metrics.cutBack(3);
  assert.equal(
    lines().map((line) => line && JSON.parse(line).step),
    [1, 2, 3, ''],
  );
  run.metrics.append({ step: 4 });
  assert.is(lines()[3], '{"step":4}');
  run.metrics.cutBack(0);
  assert.is(readFileSync(path, 'utf8'), '');
  run.close();
});

test.run();
