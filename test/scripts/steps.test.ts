import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const STEPS = resolve(process.env.RLHF_ROOT ?? '.', 'scripts/steps.sh');

/** A command that says "saved" and leaves with 130 when it is told to stop, as the training commands do; "begun" once it listens. */
const TRAINING = `node -e "
  process.on('SIGINT', () => { console.error('saved'); process.exit(130); });
  setInterval(() => {}, 1000);
  require('fs').writeFileSync('begun', '');"`;

interface Ended { code: number | null; said: string; log(): string }

/** Runs lines of a script that reads steps.sh, in a folder of its own; `signal` is sent once the file `begun` is there. */
function script(lines: string, signal?: NodeJS.Signals): Promise<Ended> {
  const dir = mkdtempSync(join(tmpdir(), 'steps-'));
  writeFileSync(join(dir, 'run.sh'), `set -euo pipefail\n. ${STEPS}\n${lines}\necho end >&2\n`);
  const child = spawn('bash', ['run.sh'], { cwd: dir, stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  child.stderr.on('data', (data) => (said += data));
  const log = (): string => readFileSync(join(dir, 'lane.log'), 'utf8');
  const waiting = signal && setInterval(() => {
    try {
      readFileSync(join(dir, 'begun'));
    } catch {
      return;
    }
    clearInterval(waiting);
    child.kill(signal);
  }, 20);
  return new Promise((done) => child.on('close', (code) => done({ code, said, log })));
}

test('a command beside the script writes to its log, and `joined` waits for it', async () => {
  const { code, said, log } = await script('lane() { sleep 0.3; echo late >&2; touch made; }\nbeside lane lane\njoined\ntest -f made');
  assert.is(code, 0);
  assert.is(said, 'end\n');
  assert.is(log(), 'late\n');
});

test('where it fails, so does the script, with its code and what it said', async () => {
  const { code, said } = await script('lane() { echo "no such file" >&2; (exit 2); echo more >&2; }\nbeside lane lane\njoined');
  assert.is(code, 2);
  assert.is(said, 'no such file\n');
});

test('where the script fails, the command beside it is told to stop and has saved before the script ends', async () => {
  const { code, said, log } = await script(`lane() { ${TRAINING}; echo more >&2; }\nbeside lane lane\nuntil [ -f begun ]; do sleep 0.05; done\nfalse`);
  assert.is(code, 1);
  assert.is(said, '');
  assert.is(log(), 'saved\n');
});

test('where the script is told to stop, both do', async () => {
  for (const [signal, expected] of [['SIGTERM', 143], ['SIGINT', 130]] as const) {
    const { code, said, log } = await script(`lane() { ${TRAINING}; }\nbeside lane lane\nuntil [ -f stop ]; do sleep 0.05; done`, signal);
    assert.is(code, expected, signal);
    assert.is(said, '', signal);
    assert.is(log(), 'saved\n', signal);
  }
});

test('a step that is done is not done again, and one that fails leaves no file', async () => {
  const { code, said } = await script('into a echo one\ninto a echo two\ngrep -q one a\ninto b sh -c "echo half; exit 3" || { test ! -e b; exit 7; }');
  assert.is(code, 7);
  assert.is(said, '');
});

test.run();
