import { closeSync, mkdirSync, openSync, readSync } from 'node:fs';
import { availableParallelism, getPriority, setPriority } from 'node:os';
import { join } from 'node:path';
import { cacheFolder } from '../files/cache_folder.ts';

/** Whether the driver checks every access of a shader to memory whatever it is asked for: Mesa's software driver does. */
export const checksBounds = ({ device, description }: Partial<GPUAdapterInfo>): boolean => /llvmpipe|lavapipe/i.test(`${device} ${description}`);

/**
 * Whether an adapter's shaders run on the CPU: Dawn calls such adapters fallbacks, or they have a name that is known. A description alone says
 * nothing: those of GPUs' drivers may speak of software too (AMD's is part of `AMD Software`).
 */
export const isSoftware = (info: Partial<GPUAdapterInfo>): boolean =>
  info.isFallbackAdapter === true || /^(software|swiftshader|warp)$/i.test(info.architecture ?? '') || checksBounds(info)
  || /swiftshader|Microsoft Basic Render/i.test(`${info.device} ${info.description}`);

/**
 * Up to so many cores Mesa's software driver gets two threads a core (it would take one): it wakes them at every dispatch, and the
 * system often puts two on one core, of which the second waits for the first while the other core idles.
 */
const FEW_CORES = 8;

/** Tells Mesa's software driver, which reads this when it is loaded, how to use the CPU, unless the user has. */
export function prepareSoftwareDriver(): void {
  process.env.XDG_RUNTIME_DIR ??= '/tmp';
  const cores = availableParallelism();
  if (cores <= FEW_CORES) process.env.LP_NUM_THREADS ??= String(2 * cores);
  // It takes vectors of 256 bits, that is subgroups of 8 lanes, on every CPU that has them; 16 lanes do products 1.6 times as fast.
  if (hasWideVectors(cpuFlags())) process.env.LP_NATIVE_VECTOR_WIDTH ??= '512';
  keepCompiledApart(process.env);
}

/** Width of the vectors that Mesa's software driver takes by itself. */
const USUAL_WIDTH = '256';

/**
 * Gives what Mesa's software driver compiles for vectors of another width than usual a cache folder of its own: its cache does not tell them
 * apart, and functions compiled for 8 lanes would compute 16 (seen with 25.0). Changes `env` as Mesa reads it; without a folder
 * nothing is cached.
 */
export function keepCompiledApart(env: NodeJS.ProcessEnv): void {
  const { LP_NATIVE_VECTOR_WIDTH: width = USUAL_WIDTH, MESA_SHADER_CACHE_DIR: found } = env;
  // It may be that of another width already: of the process that started this one, or of the device before.
  const chosen = found?.replace(/[\\/]rlhf[\\/]mesa-[^\\/]*$/, '');
  if (width === USUAL_WIDTH) {
    if (chosen !== undefined) env.MESA_SHADER_CACHE_DIR = chosen;
    return;
  }
  try {
    const cache = chosen ?? cacheFolder(env);
    if (cache === undefined) throw new Error('no cache folder');
    const folder = join(cache, 'rlhf', `mesa-${width}`);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    env.MESA_SHADER_CACHE_DIR = folder;
  } catch {
    env.MESA_SHADER_CACHE_DISABLE = 'true';
  }
}

/** Whether a CPU with these flags has vectors of 512 bits and the operations on them that the driver's compiler uses: AVX-512 of Skylake and later. */
export const hasWideVectors = (flags: ReadonlySet<string>): boolean => ['avx512f', 'avx512bw', 'avx512dq', 'avx512vl'].every((flag) => flags.has(flag));

/** What Linux says that the first CPU can do; nothing elsewhere. */
export function cpuFlags(): ReadonlySet<string> {
  let file: number;
  try {
    file = openSync('/proc/cpuinfo', 'r');
  } catch {
    return new Set();
  }
  try {
    const start = Buffer.alloc(8192);
    const text = start.toString('latin1', 0, readSync(file, start));
    return new Set(/^flags\s*:(.*)$/m.exec(text)?.[1].trim().split(/\s+/));
  } finally {
    closeSync(file);
  }
}

/** Nice value of the main thread beside a driver that computes on the same cores: it works while those compute, and can wait. */
const BEHIND = 10;

/**
 * Leaves the cores to a driver that computes on them: its threads, which exist by now, go before the main thread (between two dispatches
 * the driver waits until each of them has run), and Dawn looks less often.
 */
export function yieldToDriver(): void {
  pollSlowly();
  try {
    if (getPriority() < BEHIND) setPriority(BEHIND);
  } catch {
    // Not allowed here: slower, nothing else.
  }
}

/** Between two looks of Dawn at a software driver: a look takes 40 µs of a core that the driver computes on. */
const POLL_MS = 2;
const nextTurn = globalThis.setImmediate;
let spinning: typeof globalThis.setImmediate | undefined;

/**
 * While a promise of the device is pending, Dawn polls it in every turn of the event loop, by the global setImmediate, and so
 * takes a CPU core away from a driver that computes on the CPU: half of two. Let it look every POLL_MS instead.
 */
function pollSlowly(): void {
  spinning ??= globalThis.setImmediate;
  globalThis.setImmediate = ((action: (...args: unknown[]) => void, ...args: unknown[]) =>
    setTimeout(action, POLL_MS, ...args)) as unknown as typeof globalThis.setImmediate;
}

/** Lets Dawn look in every turn of the event loop again. */
export function pollAsBefore(): void {
  if (spinning) globalThis.setImmediate = spinning;
  spinning = undefined;
}

/** Lets the event loop turn once, so that signals are seen: the true setImmediate. */
export const turn = (): Promise<void> => new Promise((resolve) => nextTurn(resolve));
