import { spawnSync } from 'node:child_process';
import { chmodSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { temporaryFolder } from '../files/temporary.ts';

const script = join(process.env.RLHF_ROOT!, 'scripts/gpu-check.sh');

/** Runs the script with a shell program in the executable's place. */
function check(program: string, ...args: string[]) {
  const folder = temporaryFolder();
  const rlhf = join(folder, 'rlhf');
  writeFileSync(rlhf, `#!/bin/sh\n${program}\n`);
  chmodSync(rlhf, 0o755);
  const out = join(folder, 'out.json');
  const { status, stderr } = spawnSync('sh', [script, '-b', rlhf, '-o', out, ...args], { encoding: 'utf8' });
  return { status, stderr, report: JSON.parse(readFileSync(out, 'utf8')) };
}

test('everything that the program says is kept, as JSON', () => {
  const { status, report } = check(
    String.raw`
case "$*" in
  --version) echo 'rlhf 1.2.3' ;;
  doctor) printf 'device: "GPU" \\ 5\ttab\nkind: \033[1mGPU\n'; echo 'a warning' >&2 ;;
  'doctor --self-test') echo 'ok matmul 1.0e-7' ;;
  bench*) printf '{"name":"a","args":"%s"}\nnot a row\n{"name":"b"}\n' "$*" ;;
esac`,
    'gemm_nn',
    'sample',
  );
  assert.is(status, 0);
  assert.match(report.date, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
  assert.is(report.version, 'rlhf 1.2.3');
  assert.equal(report.doctor, {
    exit_code: 0,
    output: ['device: "GPU" \\ 5\ttab', 'kind: [1mGPU'],
    notes: ['a warning'],
  });
  assert.equal(report.self_test, { exit_code: 0, output: ['ok matmul 1.0e-7'], notes: [] });
  assert.equal(report.bench.output, [{ name: 'a', args: 'bench gemm_nn sample' }, { name: 'b' }]);
});

test('a part that fails is reported, the others run all the same, and the device is passed on', () => {
  const { status, stderr, report } = check(
    `
case "$*" in
  *self-test*) echo 'FAIL norm'; echo 'rlhf: error: 1 of 20' >&2; exit 1 ;;
  *) echo "{\\"args\\":\\"$*\\"}" ;;
esac`,
    '-d',
    'H200',
  );
  assert.is(status, 1);
  assert.match(stderr, /rlhf: error: 1 of 20/);
  assert.equal([report.doctor.exit_code, report.self_test.exit_code, report.bench.exit_code], [0, 1, 0]);
  assert.equal(report.bench.output, [{ args: 'bench --device H200' }]);
});

test('without the executable it says so', () => {
  const folder = temporaryFolder();
  for (const path of [folder, join(folder, 'rlhf')]) {
    const { status, stderr } = spawnSync('sh', [script, '-b', path, '-o', join(folder, 'out.json')], {
      encoding: 'utf8',
    });
    assert.equal([status, stderr], [2, `gpu-check: ${path} is not an executable file\n`]);
  }
  assert.equal(readdirSync(folder), []);
});

test.run();
