import { statSync, writeFileSync } from 'node:fs';
import { availableParallelism, getPriority } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { closeDevice, cpuLanes, gpu, subgroupSizes } from '../../src/gpu/device.ts';
import { checksBounds, cpuFlags, hasWideVectors, isSoftware, keepCompiledApart } from '../../src/gpu/software_driver.ts';
import { temporaryFolder } from '../files/temporary.ts';
import { openForTests } from './device.ts';

const { LP_NUM_THREADS: chosen, LP_NATIVE_VECTOR_WIDTH: width } = process.env;

test.before(openForTests);
test.after(closeDevice);

test('beside a software driver the main thread steps back; on few cores the driver has two threads a core, unless the user said otherwise', () => {
  assert.is(getPriority() > 0, gpu().software);
  const cores = availableParallelism();
  assert.is(process.env.LP_NUM_THREADS, chosen ?? (cores <= 8 ? String(2 * cores) : undefined));
});

test('the software driver is told of vectors of 512 bits where the CPU has them, unless the user said otherwise, and kernels take its lanes', () => {
  const flags = cpuFlags();
  assert.ok(process.platform !== 'linux' || process.arch !== 'x64' || flags.has('sse2'), 'the flags of the CPU');
  assert.is(process.env.LP_NATIVE_VECTOR_WIDTH, width ?? (hasWideVectors(flags) ? '512' : undefined));
  assert.is(cpuLanes(), gpu().software ? gpu().info.subgroupMinSize : 0);
  if (/llvmpipe/.test(gpu().info.description)) assert.is(cpuLanes(), process.env.LP_NATIVE_VECTOR_WIDTH === '512' ? 16 : 8);
});

test('wide vectors are those with all operations that came with servers of 2017', () => {
  const has = (flags: string): boolean => hasWideVectors(new Set(flags.split(' ')));
  assert.ok(has('sse2 avx2 fma avx512f avx512dq avx512cd avx512bw avx512vl'));
  assert.not.ok(has('sse2 avx2 fma'), 'AVX2');
  assert.not.ok(has('sse2 avx2 fma avx512f avx512pf avx512er avx512cd'), 'Xeon Phi');
  assert.not.ok(hasWideVectors(new Set()), 'another system');
});

test('what is compiled for vectors of another width than usual has a cache folder of its own', () => {
  const folder = temporaryFolder();
  const folderOf = (env: NodeJS.ProcessEnv): string | undefined => {
    keepCompiledApart(env);
    keepCompiledApart(env); // as a process does that this one starts
    return env.MESA_SHADER_CACHE_DIR;
  };
  const own = join(folder, 'rlhf', 'mesa-512');
  assert.is(folderOf({ XDG_CACHE_HOME: folder, LP_NATIVE_VECTOR_WIDTH: '512' }), own);
  assert.ok(statSync(own).isDirectory());
  assert.is(folderOf({ MESA_SHADER_CACHE_DIR: folder, LP_NATIVE_VECTOR_WIDTH: '128' }), join(folder, 'rlhf', 'mesa-128'));
  assert.is(folderOf({ MESA_SHADER_CACHE_DIR: folder, LP_NATIVE_VECTOR_WIDTH: '256' }), folder);
  assert.is(folderOf({ MESA_SHADER_CACHE_DIR: own, LP_NATIVE_VECTOR_WIDTH: '256' }), folder, 'started by a process of another width');
  assert.is(folderOf({ MESA_SHADER_CACHE_DIR: own, LP_NATIVE_VECTOR_WIDTH: '128' }), join(folder, 'rlhf', 'mesa-128'));
  assert.is(folderOf({}), undefined);
  const nowhere = { MESA_SHADER_CACHE_DIR: join(own, 'file'), LP_NATIVE_VECTOR_WIDTH: '128', MESA_SHADER_CACHE_DISABLE: undefined };
  writeFileSync(nowhere.MESA_SHADER_CACHE_DIR, '');
  keepCompiledApart(nowhere);
  assert.is(nowhere.MESA_SHADER_CACHE_DISABLE, 'true');
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
  ]) {
    assert.ok(isSoftware(software), JSON.stringify(software));
    assert.is(checksBounds(software), software.vendor === 'mesa', JSON.stringify(software));
  }
  for (const hardware of [
    info('nvidia', 'hopper', 'NVIDIA H200', 'NVIDIA: 570.133.20'),
    info('amd', 'rdna-3', 'AMD Radeon RX 7900 XTX', 'AMD proprietary driver: AMD Software: Adrenalin Edition 24.1.1'),
    info('amd', 'rdna-2', 'AMD Radeon Graphics (RADV REMBRANDT)', 'radv: Mesa 25.0.7 (LLVM 19.1.7)'),
    info('intel', 'xe', 'Intel(R) Iris(R) Xe Graphics (TGL GT2)', 'Intel open-source Mesa driver: Mesa 25.0.7'),
    info('apple', 'metal-3', 'Apple M2', 'Metal driver on macOS Version 14.5'),
  ]) {
    assert.not.ok(isSoftware(hardware), JSON.stringify(hardware));
    assert.not.ok(checksBounds(hardware), JSON.stringify(hardware));
  }
});

test('subgroups have a size where all are alike, and on Apple’s and NVIDIA’s GPUs, of which Dawn does not always know', () => {
  const sizes = (vendor: string, subgroupMinSize?: number, subgroupMaxSize?: number): number[] => {
    const { subgroup, leastSubgroup } = subgroupSizes({ vendor, subgroupMinSize, subgroupMaxSize } as GPUAdapterInfo);
    return [subgroup, leastSubgroup];
  };
  assert.equal(sizes('nvidia', 32, 32), [32, 32]);
  assert.equal(sizes('nvidia', 32, 128), [32, 32], 'on Windows');
  assert.equal(sizes('apple', 4, 64), [32, 32], 'on macOS');
  assert.equal(sizes('amd', 32, 64), [0, 32]);
  assert.equal(sizes('amd', 64, 64), [64, 64]);
  assert.equal(sizes('intel', 8, 32), [0, 8]);
  assert.equal(sizes('apple', 64, 64), [64, 64], 'a contradiction: what Dawn says');
  assert.equal(sizes('other'), [0, 0]);
});

test.run();
