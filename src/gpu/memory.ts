import { gpu } from './device.ts';

/** Bytes of a device's buffers and textures that have not been destroyed, now and at most so far; of them in textures, now. */
export interface DeviceMemory { live: number; peak: number; textures: number }

const TEXEL_BYTES: Partial<Record<GPUTextureFormat, number>> = { rgba32float: 16, rgba16float: 8 };
const counted = new WeakMap<GPUDevice, DeviceMemory>();

/** Counts from now on what is allocated on a device, by whomever (tfjs too): the one place where bytes are counted. */
export function countMemory(device: GPUDevice): void {
  const memory: DeviceMemory = { live: 0, peak: 0, textures: 0 };
  counted.set(device, memory);
  const watch = <T extends GPUBuffer | GPUTexture>(made: T, bytes: number, texture = false): T => {
    memory.live += bytes;
    if (texture) memory.textures += bytes;
    memory.peak = Math.max(memory.peak, memory.live);
    const destroy = made.destroy.bind(made);
    let alive = true;
    made.destroy = () => {
      if (alive) memory.live -= bytes;
      if (alive && texture) memory.textures -= bytes;
      alive = false;
      return destroy();
    };
    return made;
  };
  const own = { buffer: device.createBuffer.bind(device), texture: device.createTexture.bind(device) };
  device.createBuffer = (descriptor) => watch(own.buffer(descriptor), descriptor.size);
  device.createTexture = (descriptor) => {
    const size = descriptor.size as [number, number?, number?];
    const texels = size.reduce<number>((product, n) => product * (n ?? 1), 1);
    const bytes = texels * (TEXEL_BYTES[descriptor.format] ?? 4);
    return watch(own.texture(descriptor), bytes, true);
  };
}

const PART = 2 ** 29;

/**
 * The largest of `most` bytes, half as many and so on that a device can allocate beside what it has, but at least `least`, which is not tried.
 * Allocates them and lets them go.
 */
export async function allocatable(device: GPUDevice, most: number, least: number): Promise<number> {
  for (let bytes = most; bytes > least; bytes /= 2) if (await canAllocate(device, bytes)) return bytes;
  return least;
}

async function canAllocate(device: GPUDevice, bytes: number): Promise<boolean> {
  const memory = counted.get(device);
  const peak = memory?.peak;
  device.pushErrorScope('out-of-memory');
  const buffers: GPUBuffer[] = [];
  for (let left = bytes; left >= 4; left -= PART) {
    buffers.push(device.createBuffer({ size: Math.floor(Math.min(left, PART) / 4) * 4, usage: GPUBufferUsage.STORAGE }));
  }
  const error = await device.popErrorScope();
  for (const buffer of buffers) buffer.destroy();
  if (memory) memory.peak = peak!;
  // Memory goes back to the driver when the device is next looked at.
  await device.queue.onSubmittedWorkDone();
  return error === null;
}

/** What is allocated on the open device. */
export const deviceMemory = (): DeviceMemory => counted.get(gpu().device)!;
