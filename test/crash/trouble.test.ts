import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { buildWholeProgram, outcome, type Outcome, type WholeProgram } from '../properties/program.ts';
import { soundFolder } from './interruptions.ts';
import { prepareData, PRETRAIN } from './runs.ts';

let rlhf: WholeProgram;
test.before(async () => {
  rlhf = await buildWholeProgram();
  await prepareData(rlhf);
});
test.after(() => rlhf.remove());

/** Asserts that a command failed while working and told it in one line (and a hint). */
function assertFailed({ code, stderr }: Outcome, message: RegExp): void {
  assert.is(code, 1, stderr);
  const told = stderr.split('\n').filter((line) => /^(rlhf: error|hint|.* {4}at )/.test(line));
  assert.ok(message.test(told[0] ?? ''), stderr);
  assert.match(told[0], /^rlhf: error: /);
  assert.ok(told.length === 1 || (told.length === 2 && told[1].startsWith('hint: ')), stderr);
}

const shell = (script: string) => spawnSync('sh', ['-c', script], { cwd: rlhf.folder, encoding: 'utf8' });

test('a full disk: exit 1, the last good checkpoint stays, and the run goes on when there is room', async () => {
  mkdirSync(rlhf.path('disk'));
  // A small disk of its own where mounting is allowed; elsewhere a limit on the size of files, which fails in the same
  // places.
  const mounted = shell('mount -t tmpfs -o size=600k none disk').status === 0;
  const args = [...PRETRAIN, '--out', 'disk/run', '--save-every', '1', '--quiet'];
  try {
    await rlhf.succeed([...args, '--max-steps', '3']);
    const resumed = [...args, '--resume'];
    if (mounted) {
      shell(
        'rm -f disk/run/model.safetensors; ' +
          'dd if=/dev/zero of=disk/filler bs=1k count=1000 2>/dev/null; truncate -s -40k disk/filler',
      );
      const failed = await rlhf.run(resumed);
      assertFailed(failed, /disk\/run.*: the disk is full$/);
      assert.match(failed.stderr, /^hint: free some space/m);
    } else {
      const child = rlhf.start(resumed);
      shell(`prlimit --pid ${child.pid} --fsize=20000`);
      child.stdin!.end();
      assertFailed(await outcome(child), /disk\/run.*: cannot be written \(EFBIG\)$/);
    }
    assert.is(soundFolder(rlhf.path('disk/run'), 1).checkpoint, 3);
    shell('rm -f disk/filler');
    await rlhf.succeed(resumed);
    assert.is(soundFolder(rlhf.path('disk/run'), 1).lines, 12);
    await rlhf.succeed([...PRETRAIN, '--out', 'roomy', '--quiet']);
    assert.equal(
      readFileSync(rlhf.path('disk/run/model.safetensors')),
      readFileSync(rlhf.path('roomy/model.safetensors')),
    );
  } finally {
    if (mounted) shell('umount disk');
  }
});

// Root may write everywhere: the program then runs as nobody, who must be let in.
const asRoot = process.getuid!() === 0;
const openToAll = (path: string): boolean => (statSync(path).mode & 0o1) !== 0 && (path === '/' || openToAll(dirname(path)));
const unwritable = asRoot && !openToAll(process.env.RLHF_ROOT!) ? test.skip : test;
if (unwritable === test.skip) console.log('skipped: a folder where nothing may be written (this one is closed to other users)');

unwritable('a folder where nothing may be written: exit 1, one line, nothing left behind', async () => {
  mkdirSync(rlhf.path('locked'));
  chmodSync(rlhf.path('locked'), 0o555);
  const child = rlhf.start([...PRETRAIN, '--out', 'locked/run', '--quiet'], asRoot ? { uid: 65534 } : {});
  child.stdin!.end();
  assertFailed(await outcome(child), /locked\/run.*: permission denied, cannot write there$/);
  assert.not.ok(existsSync(rlhf.path('locked/run')));
});

test('a file where a folder is needed is refused at once', async () => {
  writeFileSync(rlhf.path('a-file'), '');
  symlinkSync('nowhere', rlhf.path('a-link'));
  for (const [out, reason] of [['a-file/run', /a-file is a file, not a folder$/m], ['a-link', /a-link is a link that leads nowhere$/m]] as const) {
    const { code, stderr } = await rlhf.run([...PRETRAIN, '--out', out, '--quiet']);
    assert.is(code, 2, stderr);
    assert.match(stderr, reason);
  }
});

test('weights that overflow stop the run with the step and the tensor; the checkpoint before is kept', async () => {
  // Each step multiplies the matrices by −1e37: finite after the first, infinite after the second, whose loss still is
  // finite. The warm-up is left out.
  const overflowing = ['--lr', '10', '--weight-decay', '1e36', '--schedule', 'constant'];
  const args = [...PRETRAIN.slice(0, -2), ...overflowing, '--quiet'];
  const saving = await rlhf.run([...args, '--save-every', '1', '--out', 'overflow-1']);
  assertFailed(saving, /step 2: [\w.]+ of \w+ holds a number that is not finite$/);
  assert.equal(soundFolder(rlhf.path('overflow-1'), 1), { lines: 2, checkpoint: 1 });
  const training = await rlhf.run([...args, '--out', 'overflow-0']);
  assertFailed(training, /step 3: loss is NaN; model[\w.]+ of model is not finite$/);
  for (const { stderr } of [saving, training])
    assert.match(stderr, /^hint: lower --lr.*the last checkpoint is untouched$/m);
  for (const out of ['overflow-0', 'overflow-1'])
    assert.not.ok(existsSync(rlhf.path(out, 'model.safetensors')), 'no broken model is written');
  const short = await rlhf.run([...args, '--max-steps', '2', '--out', 'overflow-2']);
  assertFailed(short, /step 2: .* not finite$/);
});

test('ppo stops at weights that overflow and keeps the checkpoint before', async () => {
  const failed = await rlhf.run([
    'ppo',
    '--policy',
    'base',
    '--reward',
    `cmd:awk '{ print "{\\"reward\\":" length($0) "}" }'`,
    '--prompts',
    'prompts.jsonl',
    '--episodes',
    '21',
    '--batch-size',
    '7',
    '--minibatch-size',
    '7',
    '--max-new-tokens',
    '4',
    '--warmup',
    '0',
    '--lr',
    '10',
    '--weight-decay',
    '1e37',
    '--save-every',
    '1',
    '--out',
    'ppo-overflow',
    '--quiet',
  ]);
  assertFailed(failed, /(step|iteration) [12]: .*(NaN|Infinity|not finite)/);
  soundFolder(rlhf.path('ppo-overflow'), 1000);
  assert.not.ok(existsSync(rlhf.path('ppo-overflow/model.safetensors')));
});

test.run();
