import { execFile, execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { temporaryFolder } from '../files/temporary.ts';

// Builds the executable (Node comes through npm, once) and runs it alone: an empty folder, an empty environment.
const root = process.env.RLHF_ROOT!;
const lacking = `${process.platform}-${process.arch}` !== 'linux-x64' ? 'it is tested on Linux, x64'
  : existsSync('/etc/debian_version') && !existsSync('/usr/lib/x86_64-linux-gnu/libatomic.so.1') ? 'libatomic1 is not installed' : undefined;
if (lacking) console.log(`skipped: the executable (${lacking})`);
const it = lacking ? test.skip : test;
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const folder = temporaryFolder();
const binary = join(folder, 'rlhf');
const empty = join(folder, 'empty');
mkdirSync(empty);

/** What the program says and its exit code, with nothing in its environment but `env`. */
async function rlhf(args: string[], env: Record<string, string> = {}, program = binary) {
  try {
    const { stdout, stderr } = await promisify(execFile)(program, args, { cwd: empty, env });
    return { code: 0, stdout, stderr };
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
    return { code, stdout, stderr };
  }
}
const home = (name: string): string => {
  const path = join(folder, name);
  mkdirSync(path);
  return path;
};

test.before(() => {
  if (lacking) return;
  execFileSync(process.execPath, [join(root, 'scripts/build-binary.mjs'), '--out', binary], {
    cwd: root,
    stdio: 'pipe',
  });
});

it('is one file of at most 150 MB, with the licences of what it holds beside it', () => {
  assert.ok(statSync(binary).size <= 150e6, `${statSync(binary).size} bytes`);
  const licenses = readFileSync(join(folder, 'rlhf.licenses.txt'), 'utf8');
  assert.match(licenses, /Node\.js is licensed for use as follows/);
  assert.match(licenses, /Dawn/);
});

it('tells its versions and its help, touching no disk', async () => {
  const at = { HOME: home('versions') };
  assert.match(
    (await rlhf(['--version'], at)).stdout,
    new RegExp(`^rlhf ${version} \\(Dawn: webgpu [\\d.]+, tfjs [\\d.]+\\)\n$`),
  );
  assert.match((await rlhf(['ppo', '--help'], at)).stdout, /--beta/);
  assert.equal(readdirSync(at.HOME), []);
  assert.equal(readdirSync(empty), []);
});

it('shows its help within 150 ms', () => {
  // The best of many starts: what other programs do meanwhile is not the program's.
  let best = Infinity;
  for (let i = 0; i < 30 && best > 150; i++) {
    const started = performance.now();
    execFileSync(binary, ['--help'], { cwd: empty, env: {} });
    best = Math.min(best, performance.now() - started);
  }
  assert.ok(best <= 150, `${best} ms`);
});

it('finds its adapter; two first starts at once unpack one addon', async () => {
  const HOME = home('first');
  const both = await Promise.all([rlhf(['doctor'], { HOME }), rlhf(['doctor'], { HOME })]);
  for (const { code, stdout, stderr } of both) {
    assert.is(code, 0, stderr);
    assert.match(stdout, /^device: \S/m);
  }
  // Beside it Mesa's software driver may keep what it compiles (src/gpu/software_driver.ts).
  const [hash, ...others] = readdirSync(join(HOME, '.cache', 'rlhf')).filter((name) => !name.startsWith('mesa-'));
  assert.equal(others, []);
  assert.equal(readdirSync(join(HOME, '.cache', 'rlhf', hash)), ['dawn.node']);
});

it('works without a home, with an unusable cache, and whatever NODE_OPTIONS says', async () => {
  writeFileSync(join(folder, 'file'), '');
  const environments: Record<string, string>[] = [
    { XDG_CACHE_HOME: join(folder, 'file') },
    { HOME: join(folder, 'missing') },
    { HOME: home('options'), NODE_OPTIONS: '--bogus' },
  ];
  for (const env of environments) {
    const { code, stdout, stderr } = await rlhf(['doctor'], env);
    assert.is(code, 0, stderr);
    assert.match(stdout, /^device: \S/m);
  }
  assert.not.ok(existsSync(join(folder, 'missing', '.cache', 'rlhf')), 'a missing home is not made');
});

it('usage errors, missing adapters and the copy of the file under another name', async () => {
  const HOME = home('errors');
  assert.is((await rlhf(['ppo', '--bata', '3'], { HOME })).code, 2);
  const other = await rlhf(['doctor', '--device', 'no such adapter'], { HOME });
  assert.is(other.code, 2);
  assert.match(other.stderr, /^rlhf: error: --device no such adapter: .+ \(there are: \w[^*]*\)\nhint: /m);
  const none = await rlhf(['doctor'], { HOME, VK_DRIVER_FILES: '/dev/null', VK_ICD_FILENAMES: '/dev/null' });
  assert.is(none.code, 1);
  assert.match(none.stdout, /^adapter: none\nadvice: .+/m);
  const copy = join(folder, 'copy of it');
  copyFileSync(binary, copy);
  assert.is((await rlhf(['--version'], {}, copy)).code, 0);
});

test.run();
