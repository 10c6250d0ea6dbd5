import { pad4, type Storage } from '../gpu/tensor.ts';
import { tensorPlan, type Head, type ModelConfig, type PlannedTensor } from './config.ts';
import { FlatParameters, type Block } from './flat_parameters.ts';

export type { Chunk } from './flat_parameters.ts';

/**
 * All weights of a model on the device. Their keys are transformers' names, or for tensors used in one product (q, k, v;
 * gate, up) the name with `qkv` or `gate_up` as its part.
 */
export class Weights extends FlatParameters<PlannedTensor> {
  constructor(readonly config: ModelConfig, readonly head: Head, trainable: boolean, storage?: Storage, bindingLimit?: number) {
    const plan = tensorPlan(config, head);
    super(plan, fuse(plan), trainable, storage, bindingLimit);
  }
}

const FUSED: [RegExp, string][] = [
  [/\.(q_proj|k_proj|v_proj)\.(weight|bias)$/, '.qkv.'],
  [/\.(gate_proj|up_proj)\.(weight|bias)$/, '.gate_up.'],
];

/** The key under which the decoder finds a planned tensor. */
export function fusedKey(name: string): string {
  const rule = FUSED.find(([pattern]) => pattern.test(name));
  return rule ? name.replace(rule[0], `${rule[1]}$2`) : name;
}

/** A plan as blocks: each tensor one, those of one product below one another. */
export function fuse(plan: readonly PlannedTensor[]): Block[] {
  const blocks = new Map<string, Block>();
  for (const planned of plan) {
    const key = fusedKey(planned.name);
    const matrix = planned.shape.length === 2;
    // A vector is a matrix of one row for norms and biases; fused biases lie end to end in that row.
    const [rows, cols] = matrix ? planned.shape : [planned.shape[0], 1];
    const stride = matrix ? pad4(cols) : 1;
    const block = blocks.get(key) ?? { key, parts: [], rows: 0, cols, stride, decay: planned.decay, half: matrix && planned.init !== 'head' };
    if (block.cols !== cols) throw new Error(`${planned.name}: ${cols} columns beside ${block.cols}`);
    block.parts.push({ name: planned.name, firstRow: block.rows, rows, firstCol: 0, cols });
    block.rows += rows;
    blocks.set(key, block);
  }
  return [...blocks.values()];
}
