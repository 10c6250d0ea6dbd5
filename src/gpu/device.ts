import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import { RunError, UsageError } from '../errors.ts';
import { type MatrixUnits, matrixUnits } from './matrix_units.ts';
import { countMemory } from './memory.ts';
import { checksBounds, isSoftware, pollAsBefore, prepareSoftwareDriver, yieldToDriver } from './software_driver.ts';

/** The open device and what the kernels need to know of it. */
export interface Gpu {
  device: GPUDevice;
  adapter: GPUAdapter;
  info: GPUAdapterInfo;
  /** Lanes a subgroup if the adapter has subgroups of one fixed size, else 0: kernels then use workgroup memory. */
  subgroup: number;
  /** Lanes of the smallest subgroup that a kernel may run in, 0 without subgroups: so many beside each other always share one. */
  leastSubgroup: number;
  /**
   * Numbers that a lane has room for in registers, about: 64 on Intel's GPUs, whose kernels Dawn runs in subgroups of 16, 128 on Apple's and phones',
   * 255 on others. Kernels keep so many fewer in them.
   */
  registers: 64 | 128 | 255;
  /** True for a driver that runs shaders on the CPU (lavapipe, SwiftShader). */
  software: boolean;
  /** Largest storage binding in bytes. */
  maxBinding: number;
  /** The most bytes of a buffer that is made for several values: some drivers refuse an allocation of 2 GiB though their limits allow the buffer. */
  maxShared: number;
  /** Bytes that could be allocated on a GPU when the session began, if that was asked; WebGPU does not tell how much there are. */
  allocatable?: number;
  features: ReadonlySet<string>;
  /** What the device's matrix units multiply, if it offers that for f16 with sums in f32 and RLHF_MATRIX_UNITS is set. */
  matrix?: MatrixUnits;
}

export interface DeviceOptions {
  /** Part of an adapter's name; without it a discrete GPU wins over an integrated one, and that over software. */
  adapter?: string;
  /** Told once when the adapter is a software one, and of device trouble. */
  warn?: (line: string) => void;
  /** Whether Dawn adds bounds checks to kernels. Default: unless the driver is Mesa's software one, which checks every access to memory itself. */
  boundsChecks?: boolean;
}

interface DawnModule {
  create(flags: string[]): GPU;
  globals: Record<string, unknown>;
}

let current: Gpu | undefined;
/** Dawn crashes when an object that `create` returned is collected: they live as long as the program. */
const instances: GPU[] = [];
let failure: RunError | undefined;

/** The open device. Throws if `openDevice` has not been called. */
export function gpu(): Gpu {
  if (!current) throw new Error('no device is open');
  return current;
}

/**
 * Lanes of a subgroup of a driver that runs shaders on a CPU, where they are the 8 or 16 that its vectors of 256 or 512 bits hold: kernels
 * have forms of their own for it. Else 0.
 */
export function cpuLanes(): 0 | 8 | 16 {
  const { software, subgroup } = gpu();
  return software && (subgroup === 8 || subgroup === 16) ? subgroup : 0;
}

/** Runs `work`, which waits for nothing, as if another device were open. */
export function withGpu<T>(other: Gpu, work: () => T): T {
  const own = current;
  current = other;
  try {
    return work();
  } finally {
    current = own;
  }
}

/** A value for each device, made when it is first asked for. */
export function perDevice<T>(make: () => T): () => T {
  const made = new WeakMap<GPUDevice, { value: T }>();
  return () => {
    const { device } = gpu();
    let known = made.get(device);
    if (!known) made.set(device, (known = { value: make() }));
    return known.value;
  };
}

/** Runs `work` with what is known of the device changed. What is recorded meanwhile stays as it is. */
async function withChanged<T>(changed: Partial<Pick<Gpu, 'subgroup' | 'leastSubgroup' | 'registers' | 'matrix'>>, work: () => Promise<T>): Promise<T> {
  const opened = gpu();
  const { subgroup, leastSubgroup, registers, matrix } = opened;
  Object.assign(opened, changed);
  try {
    return await work();
  } finally {
    Object.assign(opened, { subgroup, leastSubgroup, registers, matrix });
  }
}

/**
 * Runs `work` as on an adapter with this subgroup size (0: none that is fixed, the smallest of which has `least` lanes), so that one
 * machine can test every variant of the kernels.
 */
export const withSubgroup = <T>(subgroup: number, work: () => Promise<T>, least = subgroup): Promise<T> =>
  withChanged({ subgroup, leastSubgroup: least }, work);

/** Runs `work` as on an adapter whose lanes have so many registers. */
export const withRegisters = <T>(registers: Gpu['registers'], work: () => Promise<T>): Promise<T> => withChanged({ registers }, work);

/** Runs `work` as on an adapter with these matrix units. */
export const withMatrix = <T>(matrix: MatrixUnits | undefined, work: () => Promise<T>): Promise<T> => withChanged({ matrix }, work);

/** Throws what went wrong on the device since the last call (a lost device, an uncaptured error), if anything did. */
export function checkDevice(): void {
  if (failure) throw failure;
}

/**
 * Lanes of a subgroup as `Gpu` keeps them. Some versions of Dawn say 4 to 64 of every GPU on macOS and up to 128 of every one on Windows;
 * Apple's and NVIDIA's have 32 in every kernel.
 */
export function subgroupSizes({ vendor, subgroupMinSize: least = 0, subgroupMaxSize: most = 0 }: Pick<GPUAdapterInfo, 'vendor' | 'subgroupMinSize' | 'subgroupMaxSize'>): Pick<Gpu, 'subgroup' | 'leastSubgroup'> {
  if (/^(apple|nvidia)$/i.test(vendor) && least <= 32 && most >= 32) return { subgroup: 32, leastSubgroup: 32 };
  return { subgroup: least === most ? least : 0, leastSubgroup: least };
}

/** Loads Dawn: the npm package beside the program, or the addon that a single-file build unpacked. */
export async function loadDawn(): Promise<DawnModule> {
  const unpacked = (globalThis as { rlhfDawn?: () => DawnModule }).rlhfDawn;
  if (unpacked) return unpacked();
  try {
    return (await import('webgpu')) as unknown as DawnModule;
  } catch (error) {
    throw new RunError(`cannot load Dawn (npm package webgpu): ${(error as Error).message.split('\n')[0]}`,
      'reinstall the package; on Linux it needs glibc 2.34 or newer');
  }
}

/**
 * Opens the adapter with Dawn and asks for its own limits and the features the kernels can use.
 * Errors: RunError where there is no adapter, UsageError where `options.adapter` matches none.
 */
export async function openDevice(options: DeviceOptions = {}): Promise<Gpu> {
  if (current) return current;
  const dawn = await loadDawn();
  Object.assign(globalThis, dawn.globals);
  prepareSoftwareDriver();
  const toggles = ['allow_unsafe_apis', 'vulkan_enable_f16_on_nvidia'];
  const find = (more: string[]): Promise<GPUAdapter | null> => {
    const flags = [`enable-dawn-features=${[...toggles, ...more].join(',')}`, 'disable-dawn-features=timestamp_quantization'];
    if (options.adapter) flags.push(`adapter=${options.adapter}`);
    instances.push(dawn.create(flags));
    return quietly(() => findAdapter(instances.at(-1)!, options.adapter));
  };
  let adapter = await find([]);
  if (adapter && checksBounds(adapter.info) && !options.boundsChecks) adapter = await find(['disable_robustness']);
  // tfjs asks for navigator.gpu before it takes a device.
  Object.defineProperty(globalThis, 'navigator', { value: { gpu: instances.at(-1), userAgent: 'rlhf' }, configurable: true });
  if (!adapter) {
    throw new RunError('no WebGPU adapter: there is no GPU driver that Dawn can use',
      'run `rlhf doctor`; without a GPU, install a software Vulkan driver (Debian, Ubuntu: mesa-vulkan-drivers ≥ 23.3)');
  }
  const { info, limits } = adapter;
  const software = isSoftware(info);
  const wanted = ['shader-f16', 'subgroups', 'timestamp-query', ...(process.env.RLHF_MATRIX_UNITS ? ['chromium-experimental-subgroup-matrix', 'subgroup-size-control'] : [])];
  const device = await quietly(() => adapter.requestDevice({
    requiredFeatures: wanted.filter((f) => adapter.features.has(f)) as GPUFeatureName[],
    requiredLimits: {
      maxBufferSize: limits.maxBufferSize,
      maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
      maxStorageBuffersPerShaderStage: limits.maxStorageBuffersPerShaderStage,
      maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
      maxComputeInvocationsPerWorkgroup: limits.maxComputeInvocationsPerWorkgroup,
      maxComputeWorkgroupSizeX: limits.maxComputeWorkgroupSizeX,
      maxComputeWorkgroupsPerDimension: limits.maxComputeWorkgroupsPerDimension,
    },
  }));
  countMemory(device);
  failure = undefined;
  void device.lost.then((lost) => {
    if (current?.device !== device) return; // closeDevice
    failure = new RunError(`the device was lost: ${firstLine(lost.message)}`, `go on from the last checkpoint with --resume${software ? ''
      : '; if it happens again, begin anew with a lower --micro-batch-tokens: systems reset a GPU that one kernel keeps busy for seconds'}`);
  });
  device.addEventListener('uncapturederror', (event) => {
    event.preventDefault(); // Dawn would print it, over several lines
    const { error } = event as GPUUncapturedErrorEvent;
    failure ??= error.constructor.name === 'GPUOutOfMemoryError'
      ? new RunError(`the device is out of memory: ${size(asked)} more were asked for`, lower('--memory', ...SMALLER))
      : new RunError(`GPU error: ${firstLine(error.message)}`);
    if (process.env.RLHF_DEBUG) process.stderr.write(`${error.message}\n`);
  });
  const features = new Set<string>(device.features);
  // In tests: kernels and plans as on a GPU, with this adapter's subgroups if it says `subgroups`, else as if theirs had no fixed size.
  const asGpu = process.env.RLHF_GPU_FORMS;
  const sizes = device.features.has('subgroups') && (!asGpu || asGpu === 'subgroups') ? subgroupSizes(info) : { subgroup: 0, leastSubgroup: 0 };
  const opened: Gpu = {
    device,
    adapter,
    info,
    ...sizes,
    registers: /^intel$/i.test(info.vendor) ? 64 : /^(apple|arm|qualcomm|img-tec)$/i.test(info.vendor) ? 128 : 255,
    software: software && !asGpu,
    maxBinding: limits.maxStorageBufferBindingSize,
    maxShared: software ? limits.maxBufferSize : Math.min(limits.maxBufferSize, 2 ** 31 - 256),
    features,
    // Matrix units have not been seen to give right numbers on any hardware yet: only where somebody asks for them.
    matrix: process.env.RLHF_MATRIX_UNITS ? matrixUnits(info, features, sizes.subgroup) : undefined,
  };
  current = opened;
  if (software) yieldToDriver();
  if (software) options.warn?.(`no GPU: running on ${adapterName(info)}, in software: correct, but slow`);
  return opened;
}

/** Bytes of the buffer that was asked for last: what a report of lacking memory is about. */
let asked = 0;
const SMALLER = ['--batch-size', '--micro-batch-tokens'];
const lower = (...options: string[]): string => `lower ${options.join(', ')} or --max-new-tokens, or take a smaller model`;
const size = (bytes: number): string => (bytes < 2 ** 30 ? `${(bytes / 2 ** 20).toFixed(1)} MiB` : `${(bytes / 2 ** 30).toFixed(1)} GiB`);

/** Notes that a buffer is about to be asked for. Throws RunError where the device has none as large as that. */
export function askForBuffer(bytes: number): void {
  const { maxBufferSize } = gpu().adapter.limits;
  if (bytes > maxBufferSize) throw tooLarge('a buffer', bytes, maxBufferSize);
  asked = bytes;
}

/** What to tell about something that is larger than the device allows. */
export const tooLarge = (what: string, bytes: number, limit: number): RunError =>
  new RunError(`${what} of ${size(bytes)} is larger than the device allows (${size(limit)})`, lower(...SMALLER));

/** Destroys the device, so that the process can end. */
export async function closeDevice(): Promise<void> {
  if (!current) return;
  const { device } = current;
  current = undefined;
  pollAsBefore();
  device.destroy();
  await Promise.resolve();
}

/** A name for people: `NVIDIA H200 (NVIDIA: 570.133.20 …)`, `llvmpipe (Mesa 25.0.7, LLVM 15.0.6)`. */
export function adapterName(info: GPUAdapterInfo): string {
  const software = /^llvmpipe: (Mesa [\d.]+)\S* \((LLVM [\d.]+)\)/.exec(info.description);
  if (software) return `llvmpipe (${software[1]}, ${software[2]})`;
  return info.device && info.description ? `${info.device} (${info.description})` : info.description || info.device || info.vendor;
}

async function findAdapter(gpuObject: GPU, name: string | undefined): Promise<GPUAdapter | null> {
  try {
    return await gpuObject.requestAdapter({ powerPreference: 'high-performance' });
  } catch (error) {
    const message = (error as Error).message ?? String(error);
    const known = [...message.matchAll(/name: '(.*)'/g)].map(([, found]) => found).join('; ');
    throw new UsageError(`--device ${name}: no adapter has this in its name${known ? ` (there are: ${known})` : ''}`,
      'rlhf doctor lists the adapters');
  }
}

function firstLine(message: string): string {
  return message.trim().split('\n')[0];
}

/**
 * Runs `work` with the process's standard error turned away, since Dawn's native code prints warnings there that mean
 * nothing to a user. Only where standard error is a terminal, a pipe, or a file that is appended to: of another file, reopening would lose the place,
 * which a script's other commands share.
 */
export async function quietly<T>(work: () => Promise<T>): Promise<T> {
  if (process.platform !== 'linux' || process.env.RLHF_DEBUG) return work();
  let saved: number;
  try {
    const stat = fstatSync(2);
    if (!stat.isFIFO() && !stat.isCharacterDevice() && !(stat.isFile() && isAppendedTo(2))) return work();
    saved = openSync('/proc/self/fd/2', 'a');
  } catch {
    return work();
  }
  closeSync(2);
  openSync('/dev/null', 'w'); // the lowest free number: 2
  try {
    return await work();
  } finally {
    closeSync(2);
    openSync(`/proc/self/fd/${saved}`, 'a');
    closeSync(saved);
  }
}

function isAppendedTo(file: number): boolean {
  const [, flags] = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${file}`, 'latin1')) ?? [];
  return (parseInt(flags ?? '0', 8) & constants.O_APPEND) !== 0;
}
