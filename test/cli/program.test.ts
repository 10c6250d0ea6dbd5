import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { commands } from '../../src/commands/index.ts';
import { buildProgram, outcome, type Program } from './program.ts';

const test = suite('program');
let rlhf: Program;

test.before(async () => {
  rlhf = await buildProgram({
    sample: `
      export async function sample(settings, context) {
        context.onExit(() => process.stderr.write('cleaned up\\n'));
        context.log('note');
        context.warn('careful');
        if (settings.seed === 1) throw new TypeError('broken\\nsecond line');
        if (settings.seed === 2) throw Object.assign(new Error('x'), { code: 'ENOSPC', path: 'out' });
        if (settings.seed === 3) setTimeout(() => { throw new Error('later'); }, 5);
        if (settings.seed === 3 || settings.seed === 4) await new Promise(() => setInterval(() => {}, 1e4));
        const rows = settings.seed === 5 ? 1e6 : settings.seed === 6 ? 5000 : 3;
        context.progress.start('sampling', { total: rows });
        for (let i = 0; i < rows; i++) {
          await context.stdout.write(JSON.stringify({ i, text: 'x'.repeat(100) }));
          context.progress.update({ done: i + 1 });
        }
      }`,
    sft: `
      export async function trainSft(settings, context) {
        process.stderr.write('ready\\n');
        while (!context.signal.aborted) await new Promise((done) => setTimeout(done, 10));
        if (settings.seed === 9) for (;;) await new Promise((done) => setTimeout(done, 1e4));
        process.stderr.write('checkpoint saved\\n');
        throw context.signal.reason;
      }`,
  });
  mkdirSync(join(rlhf.folder, 'model'));
  writeFileSync(join(rlhf.folder, 'rows.jsonl'), '{}\n');
});
test.after(() => rlhf.remove());

const sft = ['train-sft', '--model', 'model', '--data', 'rows.jsonl', '--out', 'out'];

test('help goes to standard output with exit code 0, quickly', async () => {
  for (const args of [[], ['--help'], ['-h'], ['help']]) {
    const { code, stdout, stderr } = await rlhf.run(args);
    assert.equal([code, stderr], [0, '']);
    assert.match(stdout, /train-sft[^]*train-rm[^]*ppo/);
  }
  const times: number[] = [];
  for (let i = 0; i < 3; i++) {
    const started = performance.now();
    await rlhf.run(['--help']);
    times.push(performance.now() - started);
  }
  assert.ok(Math.min(...times) < 500, `took ${times} ms`); // 90 ms when idle; loading tfjs would take over a second
});

test('every command has help with its options and an example', async () => {
  for (const { name, options } of commands) {
    const { code, stdout } = await rlhf.run([name, '--help']);
    assert.is(code, 0);
    for (const option of Object.keys(options))
      assert.match(stdout, new RegExp(`--(no-)?${option}\\b`), `${name} --${option}`);
    assert.match(stdout, /Examples\n  rlhf/);
  }
  assert.is((await rlhf.run(['help', 'ppo'])).stdout, (await rlhf.run(['ppo', '-h'])).stdout);
  assert.is((await rlhf.run(['help', 'pqo'])).code, 2);
});

test('the versions are those installed', async () => {
  const { stdout } = await rlhf.run(['--version']);
  const installed = (name: string) =>
    JSON.parse(readFileSync(join(process.env.RLHF_ROOT!, 'node_modules', name, 'package.json'), 'utf8')).version;
  assert.is(
    stdout,
    `rlhf ${JSON.parse(readFileSync(join(process.env.RLHF_ROOT!, 'package.json'), 'utf8')).version} ` +
      `(Dawn: webgpu ${installed('webgpu')}, tfjs ${installed('@tensorflow/tfjs')})\n`,
  );
});

test('wrong usage is one line, perhaps a hint, and exit code 2', async () => {
  const { code, stdout, stderr } = await rlhf.run(['ppo', '--bata', '3']);
  assert.equal([code, stdout, stderr], [2, '', 'rlhf: error: unknown option --bata\nhint: did you mean --beta?\n']);
  assert.is((await rlhf.run(['frobnicate'])).code, 2);
  assert.is((await rlhf.run(['sample', '--model', 'none'])).code, 2);
});

test('control characters never reach the terminal', async () => {
  const { stderr } = await rlhf.run(['sample', '--model', 'a\u001b[31mb']);
  assert.not.match(stderr, /\u001b/);
  assert.match(stderr, /a\\u001b\[31mb/);
});

test('results go to standard output, notes to standard error', async () => {
  const { code, stdout, stderr } = await rlhf.run(['sample', '--model', 'model']);
  assert.is(code, 0);
  assert.is(stdout.trim().split('\n').length, 3);
  assert.match(stderr, /^note\nrlhf: warning: careful\nsampling: 3\/3 steps[^\n]*\ncleaned up\n$/);
  assert.is((await rlhf.run(['sample', '--model', 'model', '--quiet'])).stderr, 'rlhf: warning: careful\ncleaned up\n');
});

test('unexpected errors are one line and exit code 1; a stack only when asked for', async () => {
  const args = ['sample', '--model', 'model', '--quiet', '--seed', '1'];
  const plain = await rlhf.run(args);
  assert.is(plain.code, 1);
  assert.match(
    plain.stderr,
    /careful\nrlhf: error: unexpected: TypeError: broken \(RLHF_DEBUG=1 shows where\)\ncleaned up\n$/,
  );
  assert.match((await rlhf.run(args, { env: { RLHF_DEBUG: '1' } })).stderr, /\n +at .*sample\.mjs/);
});

test('a full disk and errors outside any promise are told and exit with 1', async () => {
  const full = await rlhf.run(['sample', '--model', 'model', '--seed', '2']);
  assert.is(full.code, 1);
  assert.match(full.stderr, /rlhf: error: out: the disk is full\nhint: /);
  const later = await rlhf.run(['sample', '--model', 'model', '--seed', '3']);
  assert.is(later.code, 1);
  assert.match(later.stderr, /rlhf: error: unexpected: later/);
});

test('a closed pipe ends the program quietly', async () => {
  const child = rlhf.start(['sample', '--model', 'model', '--quiet', '--seed', '5']);
  child.stdin!.end();
  child.stdout!.once('data', () => child.stdout!.destroy());
  const { code, stderr } = await outcome(child);
  assert.equal([code, stderr], [0, 'rlhf: warning: careful\ncleaned up\n']);
});

test('a slow reader gets every row', async () => {
  const child = rlhf.start(['sample', '--model', 'model', '--seed', '6']);
  child.stdin!.end();
  child.stdout!.pause();
  await new Promise((done) => setTimeout(done, 300));
  const ended = outcome(child);
  child.stdout!.resume();
  const { stdout, code } = await ended;
  assert.equal([code, stdout.trim().split('\n').length], [0, 5000]);
});

// Linux' script(1) gives a terminal; what it runs loses it when script is killed.
const terminals = process.platform === 'linux' && spawnSync('script', ['--version']).status === 0;
(terminals ? test : test.skip)('a terminal that goes away stops its run with a checkpoint; one whose notes go elsewhere goes on', async () => {
  const notes = join(rlhf.folder, 'notes');
  const words = [process.execPath, join(rlhf.folder, 'cli.mjs'), ...sft].map((word) => `'${word}'`).join(' ');
  const told = async (more: string, needed: RegExp, signals?: NodeJS.Signals[]): Promise<string> => {
    rmSync(notes, { force: true });
    // The stage writes to the terminal; a hook keeps what it says after the terminal has gone.
    const child = spawn('script', ['-qfc', `NODE_OPTIONS='--import ${join(rlhf.folder, 'keep.mjs')}' NOTES='${notes}' exec ${words} ${more}`, '/dev/null'], { cwd: rlhf.folder, stdio: 'ignore' });
    const text = () => (existsSync(notes) ? readFileSync(notes, 'utf8') : '');
    const until = async (pattern: RegExp): Promise<void> => {
      for (const end = Date.now() + 20_000; !pattern.test(text()) && Date.now() < end;) await new Promise((done) => setTimeout(done, 20));
    };
    await until(/ready/);
    if (signals) for (const signal of signals) process.kill(Number(readFileSync(`${notes}.pid`, 'utf8')), signal);
    else child.kill('SIGKILL');
    await until(needed);
    child.kill('SIGKILL');
    return text();
  };
  writeFileSync(join(rlhf.folder, 'keep.mjs'), `
    import { appendFileSync, writeFileSync } from 'node:fs';
    writeFileSync(process.env.NOTES + '.pid', String(process.pid));
    const write = process.stderr.write.bind(process.stderr);
    process.stderr.write = (text, ...more) => { appendFileSync(process.env.NOTES, text); return write(text, ...more); };
    setTimeout(() => { appendFileSync(process.env.NOTES, 'still there\\n'); process.exit(); }, 3000).unref();
  `);
  assert.match(await told('', /checkpoint saved/), /ready\n[^]*with a checkpoint[^]*checkpoint saved\n$/);
  // A farewell may come as several signals: none of them is a second Ctrl-C.
  for (const signals of [['SIGHUP', 'SIGHUP'], ['SIGTERM', 'SIGHUP'], ['SIGHUP', 'SIGTERM']] as NodeJS.Signals[][]) {
    assert.match(await told('', /checkpoint saved/, signals), /checkpoint saved\n$/);
  }
  assert.match(await told('2>/dev/null', /still there/), /^ready\nstill there\n$/);
});

test('the first Ctrl-C lets training save, exit code 130', async () => {
  const child = rlhf.start(sft);
  child.stderr!.once('data', () => child.kill('SIGINT'));
  const { code, stderr } = await outcome(child);
  assert.is(code, 130);
  assert.match(stderr, /Ctrl-C again stops at once\ncheckpoint saved\n$/);
});

test('the second Ctrl-C ends at once', async () => {
  const child = rlhf.start([...sft, '--seed', '9']);
  child.stderr!.once('data', () => child.kill('SIGINT'));
  child.stderr!.on('data', (text) => /again/.test(String(text)) && child.kill('SIGINT'));
  assert.is((await outcome(child)).code, 130);
});

test('Ctrl-C ends a command that does not listen for it', async () => {
  const child = rlhf.start(['sample', '--model', 'model', '--seed', '4']);
  child.stderr!.once('data', () => child.kill('SIGINT'));
  const { code, stderr } = await outcome(child);
  assert.is(code, 130);
  assert.match(stderr, /cleaned up/);
});

test('--dry-run prints the resolved settings as a config', async () => {
  const { code, stdout } = await rlhf.run(['ppo', '--preset', 'ziegler2019', '--lr', '3e-6', '--dry-run']);
  assert.is(code, 0);
  const settings = JSON.parse(stdout);
  assert.equal([settings.beta, settings['target-kl'], settings.lr, settings['lora-rank']], [0.15, 6, 3e-6, 0]);
  assert.not.ok(existsSync(join(rlhf.folder, 'out')));
});

test('a finished run is already complete', async () => {
  mkdirSync(join(rlhf.folder, 'done'));
  writeFileSync(join(rlhf.folder, 'done', 'config.json'), '{}');
  const args = ['train-sft', '--model', 'model', '--data', 'rows.jsonl', '--out', 'done'];
  const { stdout } = await rlhf.run(['train-sft', '--preset', 'instructgpt', '--dry-run', '--data', 'rows.jsonl']);
  const settings = { ...JSON.parse(stdout), model: 'model', out: 'done' };
  writeFileSync(
    join(rlhf.folder, 'done', 'rlhf.json'),
    JSON.stringify({ command: 'train-sft', settings, complete: true }),
  );
  const again = await rlhf.run([...args, '--preset', 'instructgpt', '--resume']);
  assert.equal([again.code, again.stderr], [0, 'done: already complete\n']);
  assert.is((await rlhf.run([...args, '--preset', 'instructgpt'])).code, 2);
  const other = await rlhf.run([...args, '--preset', 'instructgpt', '--resume', '--lr', '1']);
  assert.is(other.code, 2);
  assert.match(other.stderr, /other settings than the run's: --lr \(was 0.00000965, now 1\)/);
});

test('completions have a help', async () => {
  for (const args of [['completions', '--help'], ['help', 'completions']]) {
    const { code, stdout, stderr } = await rlhf.run(args);
    assert.equal([code, stderr], [0, '']);
    assert.match(stdout, /rlhf completions bash\|zsh\|fish/);
  }
});

test('completions are valid scripts that know the options', async () => {
  const { stdout, code } = await rlhf.run(['completions', 'bash']);
  assert.is(code, 0);
  writeFileSync(join(rlhf.folder, 'completion.bash'), stdout);
  const ask = async (...words: string[]) => {
    const script =
      `source ./completion.bash; COMP_WORDS=(rlhf ${words.map((w) => `'${w}'`).join(' ')}); ` +
      `COMP_CWORD=${words.length}; _rlhf; echo "\${COMPREPLY[*]}"`;
    return spawnSync('bash', ['-c', script], { cwd: rlhf.folder, encoding: 'utf8' }).stdout.trim();
  };
  assert.is(await ask('pp'), 'ppo');
  assert.is(await ask('ppo', '--gam'), '--gamma');
  assert.is(await ask('ppo', '--schedule', 'c'), 'constant cosine');
  assert.is(await ask('train-rm', '--preset', ''), 'instructgpt ziegler2019 tldr');
  assert.is(await ask('eval', 'p'), 'policy perplexity');
  for (const shell of ['zsh', 'fish']) {
    const script = (await rlhf.run(['completions', shell])).stdout;
    for (const { name, options } of commands) {
      assert.match(script, name);
      for (const option of Object.keys(options)) assert.match(script, option);
    }
  }
  assert.is((await rlhf.run(['completions', 'tcsh'])).code, 2);
});

test.run();
