import { availableParallelism, getPriority } from 'node:os';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { closeDevice, gpu, isSoftware } from '../../src/gpu/device.ts';
import { openForTests } from './device.ts';

const chosen = process.env.LP_NUM_THREADS;

test.before(openForTests);
test.after(closeDevice);

test('beside a software driver the main thread steps back; on few cores the driver has two threads a core, unless the user said otherwise', () => {
  assert.is(getPriority() > 0, gpu().software);
  const cores = availableParallelism();
  assert.is(process.env.LP_NUM_THREADS, chosen ?? (cores <= 8 ? String(2 * cores) : undefined));
});

test('drivers that run shaders on the CPU are told from GPUs, whatever else the descriptions of these say', () => {
  const info = (vendor: string, architecture: string, device: string, description: string, isFallbackAdapter = false): Partial<GPUAdapterInfo> =>
    ({ vendor, architecture, device, description, isFallbackAdapter });
  for (const software of [
    info('mesa', 'software', 'llvmpipe-llvm-15-0-6-256-bits-', 'llvmpipe: Mesa 25.0.7 (LLVM 15.0.6)'),
    info('mesa', '', 'llvmpipe (LLVM 19.1.1, 256 bits)', 'llvmpipe: Mesa 24.2.8'),
    info('google', 'swiftshader', 'SwiftShader Device (LLVM 10.0.0)', 'SwiftShader driver: 5.0.0'),
    info('microsoft', '', 'Microsoft Basic Render Driver', 'D3D12 driver version 10.0.26100.1'),
    info('', '', '', '', true),
  ]) assert.ok(isSoftware(software), JSON.stringify(software));
  for (const hardware of [
    info('nvidia', 'hopper', 'NVIDIA H200', 'NVIDIA: 570.133.20'),
    info('amd', 'rdna-3', 'AMD Radeon RX 7900 XTX', 'AMD proprietary driver: AMD Software: Adrenalin Edition 24.1.1'),
    info('amd', 'rdna-2', 'AMD Radeon Graphics (RADV REMBRANDT)', 'radv: Mesa 25.0.7 (LLVM 19.1.7)'),
    info('intel', 'xe', 'Intel(R) Iris(R) Xe Graphics (TGL GT2)', 'Intel open-source Mesa driver: Mesa 25.0.7'),
    info('apple', 'metal-3', 'Apple M2', 'Metal driver on macOS Version 14.5'),
  ]) assert.not.ok(isSoftware(hardware), JSON.stringify(hardware));
});

test.run();
