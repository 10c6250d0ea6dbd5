import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readCall } from '../../src/command_line.ts';
import { pretrain as command } from '../../src/commands/pretrain.ts';
import type { RunContext } from '../../src/context.ts';
import { RunError } from '../../src/errors.ts';
import { startBackend } from '../../src/gpu/backend.ts';
import { checkDevice, gpu } from '../../src/gpu/device.ts';
import { persistent } from '../../src/gpu/tensor.ts';
import type { PretrainSettings } from '../../src/options.ts';
import { Progress } from '../../src/progress.ts';
import { resolveSettings } from '../../src/settings.ts';
import { pretrain } from '../../src/stages/pretrain.ts';
import { temporaryFolder } from '../files/temporary.ts';
import { TINY, writeRows } from '../properties/program.ts';
import { soundFolder } from './interruptions.ts';

const folder = temporaryFolder();

/** A context whose progress calls `onStep` with the steps done. */
function contextFor(argv: string[], onStep: (done: number) => void): RunContext {
  const progress = new Progress({ quiet: true });
  const update = progress.update.bind(progress);
  progress.update = (state) => {
    update(state);
    onStep(state.done);
  };
  return {
    stdout: { write: async () => undefined },
    log: () => undefined,
    warn: () => undefined,
    progress,
    signal: new AbortController().signal,
    onExit: () => undefined,
    argv,
    command: argv[0],
    startedAt: new Date(),
  };
}

test('a device that is lost on the way fails the run, and its last checkpoint stays', async () => {
  writeRows(
    join(folder, 'text.jsonl'),
    Array.from({ length: 40 }, (_, i) => ({ text: `a text, number ${i}` })),
  );
  const out = join(folder, 'run');
  const argv = [
    'pretrain',
    '--data',
    join(folder, 'text.jsonl'),
    ...TINY,
    '--batch-size',
    '4',
    '--epochs',
    '4',
    '--save-every',
    '2',
    '--out',
    out,
  ];
  const call = readCall([command], argv);
  const { settings } = await resolveSettings(call.command, call, true);
  const context = contextFor(argv, (done) => {
    if (done === 5) gpu().device.destroy();
  });
  let failure: unknown;
  await pretrain(settings as unknown as PretrainSettings, context).catch((error) => (failure = error));
  assert.instance(failure, RunError);
  assert.match((failure as RunError).message, /^the device was lost/);
  assert.match((failure as RunError).hint!, '--resume');
  const { checkpoint } = soundFolder(out, 2);
  assert.is(checkpoint, 4);
  assert.not.ok(JSON.parse(readFileSync(join(out, 'rlhf.json'), 'utf8')).complete);
});

test('every later use of the lost device fails in the same way', async () => {
  assert.throws(checkDevice, /the device was lost/);
  await startBackend();
  assert.throws(() => persistent(2 ** 20, 2 ** 20), /a buffer of 4096\.0 GiB is larger than the device allows/);
});

test.run();
