// The backports source is made of the machine's own source entries, in both of apt's forms.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const script = join(process.env.RLHF_ROOT ?? '.', 'scripts/install-vulkan.sh');

function sourceFrom(files: Record<string, string>, codename = 'bookworm'): string {
  const folder = mkdtempSync(join(tmpdir(), 'rlhf-apt-'));
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), text);
  }
  const { stdout, stderr, status } = spawnSync('sh', [script, '--print-source', codename], {
    env: { ...process.env, APT_FOLDER: folder },
    encoding: 'utf8',
  });
  rmSync(folder, { recursive: true });
  assert.is(stderr, '');
  assert.is(status, 0);
  return stdout.trim();
}

test('a paragraph of a .sources file: mirror and key stay, the suite changes', () => {
  const source = sourceFrom({
    'sources.list.d/a-other.sources': 'Types: deb\nURIs: http://else.test/\nSuites: nodistro\nComponents: main\n',
    'sources.list.d/debian.sources': [
      'Types: deb-src\nURIs: http://sources.test/debian\nSuites: bookworm\nComponents: main',
      'Types: deb\nURIs: http://off.test/debian\nSuites: bookworm\nComponents: main\nEnabled: no',
      '# a comment\nTypes: deb\n# another\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\n' +
        'Components: main\nSigned-By: /key.gpg',
      'Types: deb\nURIs: http://security.test\nSuites: bookworm-security\nComponents: main',
    ].join('\n\n'),
  });
  assert.is(source, 'Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm-backports\nComponents: main\n' +
    'Signed-By: /key.gpg');
});

test('a line of a .list file', () => {
  const source = sourceFrom({
    'sources.list': '# deb http://old.test/debian bookworm main\ndeb-src http://src.test/debian bookworm main\n' +
      'deb [signed-by=/key.gpg] http://mirror.test/debian bookworm main contrib\n',
  });
  assert.is(source, 'deb [signed-by=/key.gpg] http://mirror.test/debian bookworm-backports main contrib');
});

test('of another release', () => {
  const source = sourceFrom({ 'sources.list': 'deb http://mirror.test/debian bookworm main\ndeb http://mirror.test/debian trixie main\n' }, 'trixie');
  assert.is(source, 'deb http://mirror.test/debian trixie-backports main');
});

test('nothing where there is no entry of that release', () => {
  assert.is(sourceFrom({ 'sources.list': 'deb http://mirror.test/debian trixie main\n' }), '');
  assert.is(sourceFrom({}), '');
});

test.run();
