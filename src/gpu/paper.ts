import { gpu, withGpu } from './device.ts';
import { countMemory, deviceMemory, type DeviceMemory } from './memory.ts';

/**
 * Runs `work`, which makes tensors and records steps but submits nothing, on a device that only exists on paper: what it
 * would allocate is counted, and nothing is. The open device's own limits and form of the kernels hold.
 * `work` must not wait for anything before it has recorded what it wants counted.
 */
export function onPaper<T>(work: (memory: DeviceMemory) => T): T {
  const device = paperDevice();
  countMemory(device);
  return withGpu({ ...gpu(), device }, () => work(deviceMemory()));
}

function paperDevice(): GPUDevice {
  const nothing = (): object => ({});
  const destroy = (): void => undefined;
  return {
    createBuffer: ({ size, usage }: GPUBufferDescriptor) => ({ size, usage, destroy }),
    createTexture: () => ({ createView: nothing, destroy }),
    createBindGroup: nothing,
    createBindGroupLayout: nothing,
    createPipelineLayout: nothing,
    createShaderModule: nothing,
    createComputePipelineAsync: async () => ({}),
    queue: { writeBuffer: () => undefined },
  } as unknown as GPUDevice;
}
