import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { listAdapters, parseAdapters } from '../../src/gpu/adapters.ts';
import { closeDevice, openDevice } from '../../src/gpu/device.ts';
import { advice, findVulkan } from '../../src/stages/doctor_advice.ts';
import { describe } from '../../src/stages/doctor.ts';
import { temporaryFolder } from '../files/temporary.ts';

/** A machine's root folder with these files. */
function machine(files: Record<string, string>): string {
  const root = temporaryFolder();
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content);
  }
  return root;
}
const told = (files: Record<string, string>, adapters: 'none' | 'software' = 'none'): string =>
  advice('linux', findVulkan(machine(files), {}), adapters).join('\n');

test('what is there of Vulkan is found', () => {
  const root = machine({
    '/etc/os-release': 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n',
    '/usr/lib/x86_64-linux-gnu/libvulkan.so.1': '',
    '/usr/share/vulkan/icd.d/lvp_icd.json': '{}',
    '/etc/vulkan/icd.d/nvidia_icd.json': '{}',
    '/usr/share/vulkan/icd.d/notes.txt': '',
  });
  assert.equal(findVulkan(root, {}), {
    loader: '/usr/lib/x86_64-linux-gnu/libvulkan.so.1',
    drivers: ['lvp_icd.json', 'nvidia_icd.json'],
    only: undefined,
    nvidia: false,
    system: 'debian',
    version: '12',
  });
  assert.equal(findVulkan(machine({}), {}), { loader: undefined, drivers: [], only: undefined, nvidia: false, system: '', version: '' });
});

test('drivers are listed as the loader’s environment variables name them', () => {
  const root = machine({
    '/usr/share/vulkan/icd.d/lvp_icd.json': '{}',
    '/opt/mine.json': '{}',
    '/opt/more/a.json': '{}',
    '/opt/more/readme': '',
    '/proc/driver/nvidia/version': '',
  });
  const found = (env: Record<string, string>) => {
    const { drivers, only } = findVulkan(root, env);
    return { drivers, only };
  };
  assert.equal(found({ VK_ICD_FILENAMES: '/opt/mine.json:/opt/gone.json' }), { drivers: ['/opt/mine.json'], only: 'VK_ICD_FILENAMES' });
  assert.equal(found({ VK_ICD_FILENAMES: '/opt/mine.json', VK_DRIVER_FILES: '/opt/more', VK_ADD_DRIVER_FILES: '/opt/mine.json' }), {
    drivers: ['/opt/more/a.json'],
    only: 'VK_DRIVER_FILES',
  });
  assert.equal(found({ VK_ADD_DRIVER_FILES: '/opt/mine.json:/opt/more' }), { drivers: ['/opt/mine.json', '/opt/more/a.json', 'lvp_icd.json'], only: undefined });
  assert.equal(found({ VK_DRIVER_FILES: '' }), { drivers: [], only: 'VK_DRIVER_FILES' }, 'set and empty leaves none');

  // Nobody is told to install what is there and only not looked at.
  const told = advice('linux', findVulkan(root, { VK_ICD_FILENAMES: '/opt/mine.json' }), 'software').join();
  assert.match(told, /VK_ICD_FILENAMES.*unset/);
  assert.not.match(told, /nvidia|mesa/);
  assert.match(advice('linux', findVulkan(root, { VK_DRIVER_FILES: '' }), 'none').join('\n'), /^[^\n]*VK_DRIVER_FILES.*unset.*\nwithout a GPU/);
});

test('each system is told what to install', () => {
  assert.match(
    told({ '/etc/os-release': 'ID=debian\nVERSION_ID="12"\n' }),
    /-t bookworm-backports .*mesa-vulkan-drivers/,
  );
  const ofDebian13 = told({ '/etc/os-release': 'ID=debian\nVERSION_ID="13"\n' });
  assert.match(ofDebian13, /trixie-backports/);
  const ofUbuntu = told({ '/etc/os-release': 'ID=ubuntu\nVERSION_ID="24.04"\n' });
  assert.not.match(ofUbuntu, /backports/);
  for (const text of [ofDebian13, ofUbuntu]) assert.match(text, /apt-get install -y --no-install-recommends libvulkan1 mesa-vulkan-drivers/);
  assert.match(told({ '/etc/os-release': 'ID=fedora\nVERSION_ID=43\n' }), /lavapipe/);
  assert.match(advice('darwin', findVulkan(machine({})), 'none').join(), /Metal/);
});

test('an NVIDIA GPU without its Vulkan driver is noticed, with or without a software adapter', () => {
  const gpu = { '/proc/driver/nvidia/version': '', '/etc/os-release': 'ID=ubuntu\n' };
  for (const adapters of ['none', 'software'] as const) assert.match(told(gpu, adapters), /NVIDIA_DRIVER_CAPABILITIES/);
  const whole = { ...gpu, '/usr/share/vulkan/icd.d/nvidia_icd.json': '{}' };
  assert.not.match(told(whole, 'software'), /NVIDIA_DRIVER_CAPABILITIES/);
  assert.match(told({}, 'software'), /for a GPU/);
});

test('Dawn’s list of adapters is read, and holds the one that is opened', async () => {
  const message =
    "no suitable backends found\nAvailable adapters:\n * backend: 'vulkan', name: 'NVIDIA's (R) GPU'\n" +
    " * backend: 'null', name: 'Null backend'\n";
  assert.equal(parseAdapters(message), [{ backend: 'vulkan', name: "NVIDIA's (R) GPU" }]);
  assert.equal(parseAdapters('no suitable backends found'), []);

  const adapters = await listAdapters();
  assert.ok(adapters.length > 0);
  const gpu = await openDevice({ adapter: adapters[0].name });
  try {
    const found = new Map(describe(gpu));
    assert.match(
      found.get('subgroups')!,
      gpu.subgroup ? new RegExp(`^${gpu.subgroup} lanes; .*subgroups$`) : /workgroup memory$/,
    );
    assert.match(found.get('largest storage binding')!, /^\d[\d.]* [MG]iB$/);
    assert.match(found.get('features')!, /^shader-f16 (yes|no), subgroups/);
  } finally {
    await closeDevice();
  }
});

test.run();
