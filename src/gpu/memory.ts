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

/** What is allocated on the open device. */
export const deviceMemory = (): DeviceMemory => counted.get(gpu().device)!;
