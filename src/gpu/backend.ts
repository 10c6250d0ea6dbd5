import * as tf from '@tensorflow/tfjs';
import { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import { askForBuffer, checkDevice, gpu, openDevice, type DeviceOptions, type Gpu } from './device.ts';

/** What tfjs 4.22 has at run time but keeps private in its types: our kernels are recorded into its own encoder. */
interface BackendInternals {
  commandEncoder: GPUCommandEncoder | null;
  ensureCommandEncoderReady(): void;
  endComputePassEncoder(): void;
  submitQueue(): void;
  bufferManager: { acquireBuffer(size: number, usage: GPUBufferUsageFlags): GPUBuffer; releaseBuffer(buffer: GPUBuffer): void };
}

const BACKEND = 'rlhf-webgpu';
let backend: (BackendInternals & { device: GPUDevice }) | undefined;

/**
 * Opens the device and puts tfjs's WebGPU backend on it: the same device, queue and command encoder serve our kernels
 * and stock tfjs ops, so their order holds. No op falls back to the CPU.
 */
export async function startBackend(options: DeviceOptions = {}): Promise<Gpu> {
  const opened = await openDevice(options);
  if (backend && backend.device === opened.device) return opened;
  tf.enableProdMode();
  const stock = tf.getKernelsForBackend('webgpu');
  const made = new WebGPUBackend(opened.device, opened.info);
  if (tf.findBackendFactory(BACKEND)) tf.removeBackend(BACKEND);
  tf.registerBackend(BACKEND, () => made);
  const taken = new Set(tf.getKernelsForBackend(BACKEND).map((k) => k.kernelName));
  for (const k of stock) if (!taken.has(k.kernelName)) tf.registerKernel({ ...k, backendName: BACKEND });
  await tf.setBackend(BACKEND);
  tf.env().set('WEBGPU_CPU_FORWARD', false);
  tf.env().set('WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE', 256);
  backend = made as unknown as typeof backend;
  return opened;
}

/** Whether this device is the one that the backend runs on, not one on paper. */
export const isOpen = (device: GPUDevice): boolean => device === backend?.device;

function tfjs(): BackendInternals {
  if (!backend) throw new Error('the backend has not been started');
  return backend;
}

/** Records one compute pass and the copies around it into tfjs's encoder, and submits it with whatever tfjs had pending. */
export function submit(record: (encoder: GPUCommandEncoder) => void): void {
  checkDevice();
  const b = tfjs();
  b.ensureCommandEncoderReady();
  b.endComputePassEncoder();
  record(b.commandEncoder!);
  b.submitQueue();
}

/** Submits what stock tfjs ops have recorded and not yet sent. */
export function flush(): void {
  const b = tfjs();
  if (!b.commandEncoder) return;
  b.endComputePassEncoder();
  b.submitQueue();
}

const STORAGE = 0x80 | 0x4 | 0x8; // STORAGE | COPY_SRC | COPY_DST: what tfjs gives its tensors

/** A device buffer from tfjs's own pool, so that `tf.memory()` counts it (but on paper, which tfjs knows nothing of). */
export function acquireBuffer(bytes: number): GPUBuffer {
  askForBuffer(bytes);
  if (!isOpen(gpu().device)) return gpu().device.createBuffer({ size: bytes, usage: STORAGE });
  return tfjs().bufferManager.acquireBuffer(bytes, STORAGE);
}

export { tf };
