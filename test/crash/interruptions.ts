import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { openModel } from '../../src/files/model_folder.ts';
import { openSafetensors } from '../../src/files/safetensors.ts';
import { assertSameRun, outcome, type Outcome, type WholeProgram } from '../properties/program.ts';

/** How many kill -9 all commands together get: RLHF_KILLS, 6 without it. */
export const KILLS = Number(process.env.RLHF_KILLS ?? 6);

export interface Training {
  /** The command and its options, all but --out. */
  args: string[];
  steps: number;
  saveEvery: number;
  kills: number;
  random: () => number;
}

/**
 * Runs a training command whole, twice; then once in parts, stopped by --max-steps, by Ctrl-C and by kill -9 at random
 * moments, each time resumed: all end with the same bytes, and every folder on the way is sound.
 */
export async function surviveInterruptions(
  rlhf: WholeProgram,
  name: string,
  { args, steps, saveEvery, kills, random }: Training,
): Promise<void> {
  const command = [...args, '--save-every', String(saveEvery)];
  const [whole, again, parts] = ['whole', 'again', 'parts'].map((kind) => `${name}-${kind}`);
  const dir = rlhf.path(parts);
  const resume = [...command, '--out', parts, '--resume'];
  const same = (other: string, message: string): void =>
    assertSameRun(rlhf.path(other), rlhf.path(whole), `${name}: ${message}`);

  const [{ working }] = await Promise.all([
    timed(rlhf, [...command, '--out', whole]),
    rlhf.succeed([...command, '--out', again, '--quiet']),
  ]);
  assert.is(metricsLines(rlhf.path(whole)), steps);
  same(again, 'the same command twice');

  const third = Math.floor(steps / 3);
  await rlhf.succeed([...command, '--out', parts, '--quiet', '--max-steps', String(third)]);
  assert.equal(soundFolder(dir, saveEvery), { lines: third, checkpoint: third });

  const stopped = await interrupt(rlhf, resume, dir, third + 1);
  assert.is(stopped.code, 130, stopped.stderr);
  const { lines, checkpoint } = soundFolder(dir, saveEvery);
  assert.is(lines, checkpoint, 'Ctrl-C saves what is done');
  assert.ok(checkpoint > third && checkpoint < steps, `stopped after ${checkpoint} of ${steps} steps`);
  assert.match(stopped.stderr, new RegExp(`stopped after \\w+ ${checkpoint}: go on with --resume\\n$`));

  let next = resume;
  for (let killed = 0; killed < kills;) {
    const { code, stderr } = await kill(rlhf, next, random() * working);
    const found = soundFolder(dir, saveEvery);
    if (code === null) {
      killed++;
      next = resume;
      continue;
    }
    // It was done before the moment came: that counts for nothing, and it starts anew.
    assert.is(code, 0, stderr);
    assert.is(found.lines, steps);
    same(parts, 'resumed');
    next = [...command, '--out', parts, '--overwrite'];
  }
  if (next === resume) await rlhf.succeed([...resume, '--quiet']);
  if (next === resume) same(parts, 'stopped, interrupted, killed and resumed');
  const padding = (run: string): number => (JSON.parse(readFileSync(rlhf.path(run, 'rlhf.json'), 'utf8')) as { padding: number }).padding;
  assert.ok(padding(whole) > 0);
  assert.is(padding(parts), padding(whole), 'padding is that of all parts');

  const done = await rlhf.run([...resume]);
  assert.is(done.code, 0, done.stderr);
  assert.match(done.stderr, 'already complete');
}

/**
 * Asserts that a run's folder is as a reader may expect it at any moment: whole checkpoints, whole models, no step
 * between the last checkpoint and the last metrics line but those since the checkpoint was due.
 */
export function soundFolder(dir: string, saveEvery: number): { lines: number; checkpoint: number } {
  let checkpoint = 0;
  const checkpoints = join(dir, 'checkpoints');
  for (const name of existsSync(checkpoints) ? readdirSync(checkpoints) : []) {
    if (!/^step-\d{8}$/.test(name)) continue;
    const path = join(checkpoints, name);
    const { step } = JSON.parse(readFileSync(join(path, 'state.json'), 'utf8')) as { step: number };
    assert.is(step, Number(name.slice(5)));
    checkpoint = Math.max(checkpoint, step);
    const files = readdirSync(path).filter((file) => file.endsWith('.safetensors'));
    assert.ok(files.length >= 3, `${path} holds weights and both moments`);
    for (const file of files) {
      const opened = openSafetensors(join(path, file));
      for (const tensor of opened.tensors.keys()) assert.ok(opened.read(tensor).every(Number.isFinite));
      opened.close();
    }
  }
  for (const model of ['.', 'value', 'raw']) {
    if (!existsSync(join(dir, model, 'model.safetensors'))) continue;
    const folder = openModel(join(dir, model));
    for (const { name } of folder.plan) folder.read(name);
    folder.close();
  }
  const lines = metricsLines(dir);
  assert.ok(lines >= checkpoint, `${lines} metrics lines, a checkpoint of step ${checkpoint}`);
  const due = Math.floor(Math.max(0, lines - 1) / saveEvery) * saveEvery; // that of the last line may be in the making
  assert.ok(checkpoint >= due, `${lines} steps were done, the last checkpoint is of step ${checkpoint}`);
  return { lines, checkpoint };
}

/** Whole lines of metrics.jsonl; they count up from 1. */
export function metricsLines(dir: string): number {
  const path = join(dir, 'metrics.jsonl');
  if (!existsSync(path)) return 0;
  const lines = readFileSync(path, 'utf8').split('\n').slice(0, -1);
  lines.forEach((line, i) => assert.is(JSON.parse(line).step, i + 1));
  return lines.length;
}

/** What a command shows when it starts to work. */
const STARTS = /parameters, about/;

/** Runs a command that must succeed; `working` are the ms from the opening of the run to its end. */
async function timed(rlhf: WholeProgram, args: string[]): Promise<{ working: number }> {
  const child = rlhf.start(args);
  child.stdin!.end();
  let started = 0;
  child.stderr!.on('data', (text) => {
    if (started === 0 && STARTS.test(String(text))) started = performance.now();
  });
  const { code, stderr } = await outcome(child);
  assert.is(code, 0, stderr);
  assert.ok(started > 0, stderr);
  return { working: performance.now() - started };
}

/** Sends Ctrl-C as soon as a run has written so many metrics lines. */
export async function interrupt(rlhf: WholeProgram, args: string[], dir: string, lines: number): Promise<Outcome> {
  const child = rlhf.start(args);
  child.stdin!.end();
  const ended = outcome(child);
  while (child.exitCode === null && child.signalCode === null && metricsLines(dir) < lines)
    await new Promise((r) => setTimeout(r, 5));
  child.kill('SIGINT');
  return ended;
}

/** Kills a command with SIGKILL so many ms after it has begun to work; `code` is null where it was not done before. */
async function kill(rlhf: WholeProgram, args: string[], ms: number): Promise<Outcome> {
  const child = rlhf.start(args);
  child.stdin!.end();
  const ended = outcome(child);
  for await (const [text] of eventsOf(child)) {
    if (!STARTS.test(String(text))) continue;
    await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, ms))]);
    break;
  }
  child.kill('SIGKILL');
  return ended;
}

async function* eventsOf(child: import('node:child_process').ChildProcess): AsyncGenerator<unknown[]> {
  const closed = once(child, 'close').then(() => undefined);
  for (;;) {
    const event = await Promise.race([once(child.stderr!, 'data'), closed]);
    if (!event) return;
    yield event;
  }
}
