import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { ADAPTER_SCORE, adapterTensorName, outIn } from '../../src/files/adapter.ts';
import type { NewAdapter } from '../../src/files/adapter_write.ts';
import { openModel, type ModelFolder } from '../../src/files/model_folder.ts';
import type { Head } from '../../src/model/config.ts';
import { seeded } from '../gpu/device.ts';
import { temporaryFolder } from './temporary.ts';

const dir = temporaryFolder();
let folders = 0;
/** A new empty folder. */
export const fresh = (): string => {
  const folder = join(dir, `f${folders++}`);
  mkdirSync(folder);
  return folder;
};

/** An adapter of random values on the matrices whose names end with one of the targets. */
export function randomAdapter(base: string, targets: string[], rank: number, alpha: number, seed: number, head: Head = 'lm'): NewAdapter {
  const model = openModel(base);
  const { normals } = seeded(seed);
  const tensors = new Map<string, Float32Array>();
  for (const planned of model.plan) {
    if (!targets.some((target) => planned.name.endsWith(`.${target}.weight`))) continue;
    const [out, input] = outIn(planned);
    tensors.set(adapterTensorName(planned.name, 'A'), normals(rank * input));
    tensors.set(adapterTensorName(planned.name, 'B'), normals(out * rank));
  }
  if (head === 'reward') tensors.set(ADAPTER_SCORE, normals(model.config.width));
  model.close();
  return { config: model.config, head, base, rank, alpha, targets, tensors };
}

/** scale · B · A in float64, as the matrix is stored. */
export function product(model: ModelFolder, name: string, { tensors, rank, alpha }: NewAdapter): Float64Array {
  const planned = model.plan.find((t) => t.name === name)!;
  const [out, input] = outIn(planned);
  const [a, b] = [tensors.get(adapterTensorName(name, 'A')), tensors.get(adapterTensorName(name, 'B'))];
  const transposed = planned.layout === 'in_out' || planned.kind === 'embedding';
  const result = new Float64Array(planned.shape.reduce((size, n) => size * n, 1));
  if (!a || !b) return result;
  for (let o = 0; o < out; o++) {
    for (let i = 0; i < input; i++) {
      let sum = 0;
      for (let k = 0; k < rank; k++) sum += b[o * rank + k]! * a[k * input + i]!;
      result[transposed ? i * out + o : o * input + i] = (sum * alpha) / rank;
    }
  }
  return result;
}

/** Asserts that a model is its base with these adapters added, but for the head. */
export function assertMerged(found: ModelFolder, base: ModelFolder, adapters: NewAdapter[]): void {
  for (const { name } of base.plan) {
    if (name === 'score.weight') continue;
    const products = adapters.map((adapter) => product(base, name, adapter));
    const wanted = Array.from(base.read(name), (x, i) => products.reduce((sum, p) => sum + p[i]!, x));
    const values = found.read(name);
    // One rounding to float32 for the sum; a second where two adapters are added one after the other.
    const worst = values.reduce((w, x, i) => Math.max(w, Math.abs(x - wanted[i]!) / (1 + Math.abs(wanted[i]!))), 0);
    assert.ok(worst < 4e-7, `${name}: off by ${worst}`);
  }
}

/** Changes adapter_config.json of a folder. */
export function edit(folder: string, change: (json: Record<string, unknown>) => void): void {
  const path = join(folder, 'adapter_config.json');
  const json = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  change(json);
  writeFileSync(path, JSON.stringify(json));
}
