import { flush } from '../gpu/backend.ts';
import { gpu } from '../gpu/device.ts';

/** Device time of one dispatch or pass. */
export interface Timed { kernel: string; ms: number }

/** What some work asked of the device. */
export interface Observed {
  submits: number;
  dispatches: number;
  /** Copies between buffers and to textures. */
  copies: number;
  /** Bytes written from the host. */
  uploaded: number;
  /** Passes, or with `each` dispatches, in the order in which they ran; none where the device has no timestamps. */
  times: Timed[];
}

const PER_SET = 2048; // pairs of timestamps in a query set of WebGPU's largest size

/**
 * Runs `work` while counting what it submits, and times its compute passes with timestamp queries; with `each`, every
 * dispatch gets a pass of its own, which costs time between kernels but tells them apart.
 */
export async function observe(work: () => Promise<void>, { each }: { each: boolean }): Promise<Observed> {
  const { device, features } = gpu();
  const observed: Observed = { submits: 0, dispatches: 0, copies: 0, uploaded: 0, times: [] };
  const watch = features.has('timestamp-query') ? new Stopwatch(device) : undefined;
  flush(); // what is pending belongs to earlier work
  const { queue } = device;
  const own = { make: device.createCommandEncoder, write: queue.writeBuffer };
  device.createCommandEncoder = (descriptor) => observedEncoder(own.make.call(device, descriptor), observed, watch, each);
  queue.writeBuffer = (...args: Parameters<GPUQueue['writeBuffer']>) => {
    const [, , data, , size] = args;
    observed.uploaded += size ?? data.byteLength;
    own.write.apply(queue, args);
  };
  try {
    await work();
    flush();
  } finally {
    device.createCommandEncoder = own.make;
    queue.writeBuffer = own.write;
  }
  observed.times = (await watch?.read()) ?? [];
  return observed;
}

/** Device time by kernel, the longest first. */
export function byKernel(times: readonly Timed[], runs = 1): { kernel: string; ms: number; dispatches: number }[] {
  const found = new Map<string, { kernel: string; ms: number; dispatches: number }>();
  for (const { kernel, ms } of times) {
    const entry = found.get(kernel) ?? { kernel, ms: 0, dispatches: 0 };
    found.set(kernel, { kernel, ms: entry.ms + ms / runs, dispatches: entry.dispatches + 1 / runs });
  }
  return [...found.values()].sort((a, b) => b.ms - a.ms);
}

function observedEncoder(encoder: GPUCommandEncoder, observed: Observed, watch: Stopwatch | undefined, each: boolean): GPUCommandEncoder {
  const seen = {
    clearBuffer: (...args: Parameters<GPUCommandEncoder['clearBuffer']>) => encoder.clearBuffer(...args),
    copyBufferToBuffer(...args: [GPUBuffer, number, GPUBuffer, number, number]) {
      observed.copies++;
      encoder.copyBufferToBuffer(...args);
    },
    copyBufferToTexture(...args: Parameters<GPUCommandEncoder['copyBufferToTexture']>) {
      observed.copies++;
      encoder.copyBufferToTexture(...args);
    },
    finish() {
      observed.submits++;
      return encoder.finish();
    },
    beginComputePass: () => observedPass(encoder, observed, watch, each),
  };
  return seen as unknown as GPUCommandEncoder;
}

function observedPass(encoder: GPUCommandEncoder, observed: Observed, watch: Stopwatch | undefined, each: boolean): GPUComputePassEncoder {
  const whole = each ? undefined : encoder.beginComputePass({ timestampWrites: watch?.next('pass') });
  let pipeline: GPUComputePipeline;
  const groups: [number, GPUBindGroup][] = [];
  const seen = {
    setPipeline(next: GPUComputePipeline) {
      pipeline = next;
      whole?.setPipeline(next);
    },
    setBindGroup(index: number, group: GPUBindGroup) {
      groups[index] = [index, group];
      whole?.setBindGroup(index, group);
    },
    dispatchWorkgroups(x: number, y?: number, z?: number) {
      observed.dispatches++;
      if (whole) return whole.dispatchWorkgroups(x, y, z);
      const pass = encoder.beginComputePass({ timestampWrites: watch?.next(pipeline.label) });
      pass.setPipeline(pipeline);
      for (const [index, group] of groups) pass.setBindGroup(index, group);
      pass.dispatchWorkgroups(x, y, z);
      pass.end();
    },
    end: () => whole?.end(),
  };
  return seen as unknown as GPUComputePassEncoder;
}

/** Pairs of timestamps, as many as are asked for. */
class Stopwatch {
  private readonly sets: GPUQuerySet[] = [];
  private readonly kernels: string[] = [];

  constructor(private readonly device: GPUDevice) {}

  next(kernel: string): GPUComputePassTimestampWrites {
    const place = this.kernels.length % PER_SET;
    if (place === 0) this.sets.push(this.device.createQuerySet({ type: 'timestamp', count: 2 * PER_SET }));
    this.kernels.push(kernel);
    return { querySet: this.sets.at(-1)!, beginningOfPassWriteIndex: 2 * place, endOfPassWriteIndex: 2 * place + 1 };
  }

  async read(): Promise<Timed[]> {
    const { device, sets, kernels } = this;
    const times: Timed[] = [];
    for (const [s, set] of sets.entries()) {
      const count = Math.min(PER_SET, kernels.length - s * PER_SET);
      const resolved = device.createBuffer({ size: count * 16, usage: 0x200 | 0x4 }); // QUERY_RESOLVE | COPY_SRC
      const staging = device.createBuffer({ size: count * 16, usage: 0x1 | 0x8 }); // MAP_READ | COPY_DST
      const encoder = device.createCommandEncoder();
      encoder.resolveQuerySet(set, 0, 2 * count, resolved, 0);
      encoder.copyBufferToBuffer(resolved, 0, staging, 0, count * 16);
      device.queue.submit([encoder.finish()]);
      await staging.mapAsync(0x1);
      const stamps = new BigUint64Array(staging.getMappedRange());
      for (let i = 0; i < count; i++) {
        // A pass that never ran (its work was thrown away) has no stamps.
        const ns = stamps[2 * i + 1] >= stamps[2 * i] ? Number(stamps[2 * i + 1] - stamps[2 * i]) : 0;
        times.push({ kernel: kernels[s * PER_SET + i], ms: ns / 1e6 });
      }
      staging.unmap();
      staging.destroy();
      resolved.destroy();
      set.destroy();
    }
    return times;
  }
}
