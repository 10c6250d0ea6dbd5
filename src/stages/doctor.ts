import type { RunContext } from '../context.ts';
import { RunError } from '../errors.ts';
import { listAdapters } from '../gpu/adapters.ts';
import { adapterName, closeDevice, type Gpu, openDevice } from '../gpu/device.ts';
import type { DoctorSettings } from '../options.ts';
import type { Outcome } from '../self_test/index.ts';
import { versions } from '../versions.ts';
import { advice, findVulkan } from './doctor_advice.ts';

/** Features that some kernels can use; none is necessary. */
const FEATURES = ['shader-f16', 'subgroups', 'timestamp-query', 'chromium-experimental-subgroup-matrix'];

/** Says what the program runs on, and with --self-test whether its kernels compute there what they should. */
export async function doctor(settings: DoctorSettings, context: RunContext): Promise<void> {
  const say = async (name: string, value: string): Promise<void> => context.stdout.write(`${name}: ${value}`);
  await say('program', `rlhf ${versions.rlhf}, Dawn (webgpu ${versions.dawn}), tfjs ${versions.tfjs}`);
  await say('system', `${process.platform} ${process.arch}, Node ${process.versions.node}`);
  const vulkan = findVulkan();
  if (process.platform === 'linux') {
    await say('Vulkan loader', vulkan.loader ?? 'not found in the usual folders');
    await say('Vulkan drivers', `${vulkan.drivers.join(', ') || 'none found'}${vulkan.only ? ` (${vulkan.only})` : ''}`);
  }
  const advise = async (adapters: 'none' | 'software'): Promise<void> => {
    for (const line of advice(process.platform, vulkan, adapters)) await say('advice', line);
  };

  const adapters = await listAdapters();
  for (const { backend, name } of adapters) await say('adapter', `${name} (${backend})`);
  if (adapters.length === 0) {
    await say('adapter', 'none');
    await advise('none');
    throw new RunError('no WebGPU adapter: there is no driver that Dawn can use');
  }
  context.onExit(closeDevice);
  const gpu = await openDevice({ adapter: settings.device });
  for (const [name, value] of describe(gpu)) await say(name, value);
  if (gpu.software) await advise('software');
  if (settings.selfTest) await testKernels(settings.device, context);
}

/** What matters to the kernels of an open device, as names and values. */
export function describe({ info, adapter, features, subgroup, software }: Gpu): [string, string][] {
  const { limits } = adapter;
  const { subgroupMinSize: least, subgroupMaxSize: most } = info;
  const width = features.has('subgroups') ? (least === most ? `${least} lanes` : `${least} to ${most} lanes`) : 'none';
  return [
    ['device', adapterName(info)],
    ['vendor', [info.vendor, info.architecture].filter(Boolean).join(', ') || 'unknown'],
    ['kind', software ? 'software: correct, but slow' : 'GPU'],
    ['subgroups', `${width}; reductions go through ${subgroup > 0 ? 'subgroups' : 'workgroup memory'}`],
    ['features', FEATURES.map((name) => `${name} ${features.has(name) ? 'yes' : 'no'}`).join(', ')],
    ['largest storage binding', bytes(limits.maxStorageBufferBindingSize)],
    ['largest buffer', bytes(limits.maxBufferSize)],
    ['storage bindings a kernel', String(limits.maxStorageBuffersPerShaderStage)],
    ['workgroup', `${limits.maxComputeInvocationsPerWorkgroup} lanes, ${bytes(limits.maxComputeWorkgroupStorageSize)}`],
    ['workgroups a dimension', String(limits.maxComputeWorkgroupsPerDimension)],
  ];
}

function bytes(n: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
  let power = 0;
  while (n >= 2 ** (10 * (power + 1)) && power < units.length - 1) power++;
  return `${+(n / 2 ** (10 * power)).toFixed(2)} ${units[power]}`;
}

async function testKernels(device: string | undefined, context: RunContext): Promise<void> {
  const { startBackend } = await import('../gpu/backend.ts');
  const { selfTest, tally } = await import('../self_test/index.ts');
  await startBackend({ adapter: device });
  context.log('compiling the kernels and comparing them with float64 references');
  const outcomes: Outcome[] = [];
  for await (const outcome of selfTest()) {
    outcomes.push(outcome);
    await context.stdout.write(outcome.line);
    if (context.signal.aborted) throw context.signal.reason;
  }
  await context.stdout.write(tally(outcomes));
  const failed = outcomes.filter(({ ok }) => !ok).length;
  if (failed > 0) throw new RunError(`${failed} of ${outcomes.length} kernel tests failed on ${device ?? 'this device'}`);
}
