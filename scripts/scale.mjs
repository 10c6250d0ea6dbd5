#!/usr/bin/env node
// Cost against size, measured with the commands themselves (see scale.sh): JSON lines, and a page by scale-page.mjs.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { page } from './scale-page.mjs';

const root = new URL('..', import.meta.url).pathname;
/** Has a process tell at its end the most memory that it had resident, in KiB. */
const TELL_PEAK = `data:text/javascript,import{writeSync}from'node:fs';process.on('exit',()=>writeSync(3,String(process.resourceUsage().maxRSS)))`;
const JUDGE = join(root, 'scripts/one-sentence-judge.mjs');
const TOKENS = 2048; // of a training step, whatever its rows
const LAYERS = 2;
const VOCABULARY = 512;

/** How much is measured: rows that go through a model, and rows that are only read (`read`), among the rest. */
const SIZES = {
  full: { contexts: [64, 128, 256, 512, 1024], widths: [64, 128, 256, 384, 512, 768], answers: [2, 4, 7, 14], rows: 1e6, read: 1e6, steps: 14 },
  quick: { contexts: [64, 256, 1024], widths: [64, 192, 384], answers: [2, 14], rows: 1e4, read: 1e5, steps: 6 },
  smallest: { contexts: [64, 128], widths: [32, 64], answers: [2, 4], rows: 100, read: 1000, steps: 3 },
};
const PANELS = ['contexts', 'widths', 'answers', 'rows'];

/** Words that fill a context: the same for a number. */
function words(count, seed) {
  const list = ['river', 'stone', 'light', 'under', 'green', 'paper', 'seven', 'cloud', 'north', 'quiet', 'table', 'glass'];
  let state = seed * 7919 + 17;
  return Array.from({ length: count }, () => list[(state = (state * 1103515245 + 12345) & 0x7fffffff) % list.length]).join(' ');
}

const lines = (rows) => rows.map((row) => `${JSON.stringify(row)}\n`).join('');
const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

/** Median of the seconds that a token took in the steps of a run, the first few left out: they wait for compilation. */
export function secondsPerToken(metrics) {
  const steps = metrics.trimEnd().split('\n').map((line) => JSON.parse(line));
  const later = steps.slice(Math.min(3, Math.floor(steps.length / 2)));
  return median(later.map(({ seconds, tokens }) => seconds / tokens));
}

/** Width within the MLP: 8/3 of the model's, a multiple of 4. */
const hidden = (width) => Math.round((8 * width) / 3 / 4) * 4;

/** Floating-point operations of a training step for each token: 6 a weight of a product, and 6 a pair of tokens and channel. */
export const operations = ({ width, context }) =>
  6 * (LAYERS * (4 * width ** 2 + 3 * width * hidden(width)) + VOCABULARY * width) + 6 * LAYERS * width * context;

class Measurement {
  constructor(folder, program, sizes) {
    this.folder = folder;
    this.program = program;
    this.sizes = sizes;
    this.points = [];
  }

  path(...parts) {
    return join(this.folder, ...parts);
  }

  /** Runs a command of the program. */
  run(args, feed) {
    return this.node([this.program, ...args, '--quiet'], feed);
  }

  /** Runs Node; `feed` writes its input. Returns its seconds and the most memory that it had resident, in bytes. */
  async node(args, feed) {
    const began = performance.now();
    const child = spawn(process.execPath, ['--import', TELL_PEAK, ...args], { cwd: this.folder, stdio: [feed ? 'pipe' : 'ignore', 'ignore', 'pipe', 'pipe'] });
    let [errors, peak] = ['', ''];
    child.stderr.on('data', (chunk) => (errors += chunk));
    child.stdio[3].on('data', (chunk) => (peak += chunk));
    const ended = new Promise((done) => child.on('close', done));
    if (feed) {
      child.stdin.on('error', () => undefined); // told by the exit code
      await feed(child.stdin);
      child.stdin.end();
    }
    const code = await ended;
    if (code !== 0) throw new Error(`${args.join(' ')} ended with ${code}: ${errors.trim().split('\n').at(-1)}`);
    return { seconds: (performance.now() - began) / 1000, peak: Number(peak) * 1024 };
  }

  add(point) {
    this.points.push(point);
    console.error(JSON.stringify(point));
  }

  /** A base model of a width and context, trained for a few steps; returns what a token took. */
  async pretrain(out, { width, context }) {
    const vocabulary = this.tokenizer ? ['--tokenizer', this.tokenizer] : ['--vocab-size', String(VOCABULARY)];
    await this.run(['pretrain', '--data', 'text.jsonl', ...vocabulary, '--arch', 'llama', '--layers', String(LAYERS), '--width', String(width),
      '--heads', String(width / 32), '--hidden', String(hidden(width)), '--context', String(context), '--batch-size', String(TOKENS / context),
      '--micro-batch-tokens', String(TOKENS), '--max-steps', String(this.sizes.steps), '--out', out]);
    this.tokenizer ??= out;
    return secondsPerToken(readFileSync(this.path(out, 'metrics.jsonl'), 'utf8'));
  }

  async contexts() {
    for (const context of this.sizes.contexts) {
      const seconds = await this.pretrain(`context-${context}`, { width: 128, context });
      this.add({ panel: 'context', x: context, seconds_per_token: seconds, operations: operations({ width: 128, context }) });
    }
  }

  async widths() {
    for (const width of this.sizes.widths) {
      const seconds = await this.pretrain(`width-${width}`, { width, context: 128 });
      this.add({ panel: 'width', x: width, seconds_per_token: seconds, operations: operations({ width, context: 128 }) });
    }
  }

  async answers() {
    const most = Math.max(...this.sizes.answers);
    await this.small();
    for (const count of this.sizes.answers) {
      // As many answers a step, whatever K.
      const rows = Array.from({ length: (most / count) * this.sizes.steps * 2 }, (_, i) => ({
        prompt: words(6, i),
        completions: Array.from({ length: count }, (_, k) => ` ${words(12, i * count + k)}`),
        ranks: Array.from({ length: count }, (_, k) => k),
      }));
      writeFileSync(this.path('rankings.jsonl'), lines(rows));
      await this.run(['train-rm', '--model', 'small', '--data', 'rankings.jsonl', '--batch-size', String(Math.round((2 * most) / count)),
        '--max-steps', String(this.sizes.steps), '--out', `answers-${count}`]);
      const seconds = secondsPerToken(readFileSync(this.path(`answers-${count}`, 'metrics.jsonl'), 'utf8'));
      this.add({ panel: 'answers', x: count, seconds_per_token: seconds });
    }
  }

  /** The model that rows go through, made once. */
  async small() {
    if (!existsSync(this.path('small'))) await this.pretrain('small', { width: 64, context: 64 });
    return 'small';
  }

  async rows() {
    const model = await this.small();
    const reward = `answers-${this.sizes.answers[0]}`;
    if (!existsSync(this.path(reward))) {
      writeFileSync(this.path('rankings.jsonl'), lines(Array.from({ length: 8 }, (_, i) => ranking(i))));
      await this.run(['train-rm', '--model', model, '--data', 'rankings.jsonl', '--max-steps', '1', '--out', reward]);
    }
    const through = (command, ...more) => ({ command, most: this.sizes.rows, row: demonstration,
      run: (feed) => this.run([command, '--model', command === 'score' ? reward : model, '--batch-size', '64', ...more], feed) });
    const commands = [
      through('sample', '--max-new-tokens', '1'),
      through('logprobs'),
      through('score'),
      { command: 'judge', most: this.sizes.read, row: demonstration, run: (feed) => this.node([JUDGE], feed) },
      { command: 'label --agreement', most: this.sizes.read, row: ranking, run: (feed) => this.run(['label', '--agreement', '--data', '-'], feed) },
      { command: 'train-sft', most: this.sizes.rows, row: demonstration,
        run: (feed) => this.run(['train-sft', '--model', model, '--data', '-', '--out', 'unused', '--dry-run'], feed) },
    ];
    for (let count = 100; count <= Math.max(this.sizes.rows, this.sizes.read); count *= 10) {
      for (const { command, most, row, run } of commands) {
        if (count > most) continue;
        const { seconds, peak } = await run((stream) => feedRows(stream, count, row));
        this.add({ panel: 'rows', command, x: count, seconds, peak_bytes: peak });
      }
    }
  }
}

const demonstration = (i) => ({ prompt: words(3, i), completion: ` ${words(3, i + 1)}` });
/** Two labelers by turns, each two rows for the same answers. */
const ranking = (i) => {
  const task = i >> 1;
  return { prompt: `${words(3, task)} ${task}`, completions: [` ${words(3, task + 1)}`, ' none'], ranks: [1, 1 + (i % 3)], labeler: `${i & 1}` };
};

/** Writes rows to a stream as fast as they are read. */
async function feedRows(stream, count, row) {
  for (let i = 0; i < count; i += 100) {
    const block = Array.from({ length: Math.min(100, count - i) }, (_, n) => row(i + n));
    if (!stream.write(lines(block)) && !stream.destroyed) {
      const waiting = new AbortController();
      const over = { signal: waiting.signal };
      await Promise.race([once(stream, 'drain', over), once(stream, 'close', over)]).catch(() => undefined); // told by the exit code
      waiting.abort();
    }
    if (stream.destroyed) return;
  }
}

async function main() {
  const { values } = parseArgs({ options: {
    out: { type: 'string', default: join(root, 'runs/scale') }, rows: { type: 'string' }, only: { type: 'string' }, quick: { type: 'boolean' },
    smallest: { type: 'boolean' }, program: { type: 'string', default: join(root, 'dist/cli.js') }, plot: { type: 'string' },
  } });
  const out = resolve(values.out);
  const kind = values.smallest ? 'smallest' : values.quick ? 'quick' : 'full';
  const sizes = { ...SIZES[kind], ...(values.rows ? { rows: Number(values.rows) } : {}) };
  if (!(sizes.rows >= 100)) throw new Error(`--rows must be a number of at least 100, not ${values.rows}`);
  if (values.only && !PANELS.includes(values.only)) throw new Error(`--only must be one of ${PANELS.join(', ')}, not ${values.only}`);
  mkdirSync(out, { recursive: true });
  let points;
  if (values.plot) points = readFileSync(values.plot, 'utf8').trimEnd().split('\n').map((line) => JSON.parse(line));
  else {
    const work = join(out, 'work');
    rmSync(work, { recursive: true, force: true });
    mkdirSync(work);
    const measurement = new Measurement(work, resolve(values.program), sizes);
    writeFileSync(join(work, 'text.jsonl'), lines(Array.from({ length: 8 * sizes.steps }, (_, i) => ({ text: words(640, i) }))));
    for (const panel of values.only ? [values.only] : PANELS) await measurement[panel]();
    points = measurement.points;
    writeFileSync(join(out, 'scale.jsonl'), lines(points));
    rmSync(work, { recursive: true });
  }
  writeFileSync(join(out, 'scale.html'), page(points));
  console.log(join(out, 'scale.html'));
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  main().catch((error) => {
    console.error(`scale: ${error.message}`);
    process.exit(2);
  });
}
