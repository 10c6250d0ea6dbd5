import { cpuLanes, gpu, perDevice } from './device.ts';
import { withHalfStorage } from './half_storage.ts';
import { renderTemplate, type Constants } from './template.ts';
import type { Storage } from './tensor.ts';

/** A kernel for given constants; its forms differ in which of its tensors are stored as f16. */
export interface Kernel {
  readonly name: string;
  /**
   * The form for tensors stored like this, in the order of the bindings (f32 where the list ends). Starts its compilation
   * at the first call and returns the same object ever after: compilations run side by side, and nothing is compiled twice.
   */
  form(storages?: readonly Storage[]): Form;
}

/** A compute pipeline in the making: its layout is known at once, the pipeline when `ready` is fulfilled. */
export interface Form {
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

const compiled = perDevice(() => ({ kernels: new Map<string, Kernel>(), pending: 0, created: 0 }));
const BINDING = /@group\(0\)\s*@binding\((\d+)\)\s*var(?:<(storage,\s*read_write|storage,\s*read|storage|uniform)>|\s+\w+: texture_storage_2d(_array)?<(\w+), (read|write)>)/g;

/** Pipelines asked for and not yet compiled, and all asked for: for showing progress before a first step. */
export const compilation = (): { pending: number; created: number } => compiled();

/** The kernel of a WGSL template for given constants: the same object for the same ones. */
export function kernel(name: string, source: string, constants: Constants = {}): Kernel {
  const { device } = gpu();
  const { kernels } = compiled();
  const all = { SUBGROUP: gpu().subgroup, CPU_LANES: cpuLanes(), ...constants };
  const key = `${name} ${JSON.stringify(all)}`;
  const known = kernels.get(key);
  if (known) return known;
  const code = renderTemplate(source, all);
  const forms = new Map<string, Form>();
  const made: Kernel = {
    name,
    form(storages = []) {
      const halves = new Set(storages.flatMap((storage, binding) => (storage === 'f16' ? [binding] : [])));
      const kind = [...halves].join();
      let form = forms.get(kind);
      if (!form) forms.set(kind, (form = compile(device, name, withHalfStorage(code, halves), kind ? `${key} f16: ${kind}` : key)));
      return form;
    },
  };
  kernels.set(key, made);
  return made;
}

function compile(device: GPUDevice, name: string, code: string, key: string): Form {
  const entries: GPUBindGroupLayoutEntry[] = [];
  for (const [, binding, kind, array, format, access] of code.matchAll(BINDING)) {
    if (format) {
      const storageTexture = { access: `${access as 'read' | 'write'}-only`, format: format as GPUTextureFormat, viewDimension: array ? '2d-array' : '2d' } as const;
      entries.push({ binding: Number(binding), visibility: 4, storageTexture });
      continue;
    }
    const type = kind === 'uniform' ? 'uniform' : kind.includes('read_write') ? 'storage' : 'read-only-storage';
    entries.push({ binding: Number(binding), visibility: 4, buffer: { type } });
  }
  const layout = device.createBindGroupLayout({ label: name, entries });
  const uniforms = entries.filter((e) => e.buffer?.type === 'uniform').length;
  const made: Form = { name, layout, tensors: entries.length - uniforms, hasUniform: uniforms > 0,
    writes: entries.filter((e) => e.buffer?.type === 'storage').map((e) => e.binding), ready: Promise.resolve() };
  const own = compiled();
  own.pending++;
  own.created++;
  const pipeline = async (): Promise<void> => {
    try {
      made.pipeline = await device.createComputePipelineAsync({
        label: name,
        layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
        compute: { module: device.createShaderModule({ label: key, code }), entryPoint: 'main' },
      });
    } catch (error) {
      throw new Error(`kernel ${key}: ${(error as Error).message}`);
    } finally {
      own.pending--;
    }
  };
  (made as { ready: Promise<void> }).ready = pipeline();
  made.ready.catch(() => {}); // reported where it is awaited
  return made;
}
