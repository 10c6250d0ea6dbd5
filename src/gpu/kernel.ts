import { gpu } from './device.ts';
import { renderTemplate, type Constants } from './template.ts';

/** A compute pipeline in the making: its layout is known at once, the pipeline when `ready` is fulfilled. */
export interface Kernel {
  readonly name: string;
  readonly layout: GPUBindGroupLayout;
  /** How many bindings are tensors; a uniform, if there is one, comes last. */
  readonly tensors: number;
  readonly hasUniform: boolean;
  /** The tensors' bindings that the kernel writes. */
  readonly writes: readonly number[];
  readonly ready: Promise<void>;
  pipeline?: GPUComputePipeline;
}

let owner: GPUDevice | undefined;
let kernels = new Map<string, Kernel>();
let pending = 0;
let created = 0;
const BINDING = /@group\(0\)\s*@binding\((\d+)\)\s*var(?:<(storage,\s*read_write|storage,\s*read|storage|uniform)>|\s+\w+: texture_storage_2d<(\w+), read>)/g;

/** Pipelines asked for and not yet compiled, and all asked for: for showing progress before a first step. */
export const compilation = (): { pending: number; created: number } => ({ pending, created });

/**
 * The kernel of a WGSL template for given constants. Starts its compilation at the first call and returns the same
 * object ever after: compilations run side by side, and nothing is compiled twice.
 */
export function kernel(name: string, source: string, constants: Constants = {}): Kernel {
  const { device } = gpu();
  if (owner !== device) {
    owner = device;
    kernels = new Map();
    pending = created = 0;
  }
  const all = { SUBGROUP: gpu().subgroup, ...constants };
  const key = `${name} ${JSON.stringify(all)}`;
  const known = kernels.get(key);
  if (known) return known;
  const code = renderTemplate(source, all);
  const entries: GPUBindGroupLayoutEntry[] = [];
  for (const [, binding, kind, format] of code.matchAll(BINDING)) {
    if (format) {
      entries.push({ binding: Number(binding), visibility: 4, storageTexture: { access: 'read-only', format: format as GPUTextureFormat } });
      continue;
    }
    const type = kind === 'uniform' ? 'uniform' : kind.includes('read_write') ? 'storage' : 'read-only-storage';
    entries.push({ binding: Number(binding), visibility: 4, buffer: { type } });
  }
  const layout = device.createBindGroupLayout({ label: name, entries });
  const uniforms = entries.filter((e) => e.buffer?.type === 'uniform').length;
  const made: Kernel = { name, layout, tensors: entries.length - uniforms, hasUniform: uniforms > 0,
    writes: entries.filter((e) => e.buffer?.type === 'storage').map((e) => e.binding), ready: Promise.resolve() };
  pending++;
  created++;
  const compile = async (): Promise<void> => {
    try {
      made.pipeline = await device.createComputePipelineAsync({
        label: name,
        layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
        compute: { module: device.createShaderModule({ label: name, code }), entryPoint: 'main' },
      });
    } catch (error) {
      throw new Error(`kernel ${key}: ${(error as Error).message}`);
    } finally {
      pending--;
    }
  };
  (made as { ready: Promise<void> }).ready = compile();
  made.ready.catch(() => {}); // reported where it is awaited
  kernels.set(key, made);
  return made;
}
