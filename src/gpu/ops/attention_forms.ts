import source from '../../../kernels/attention.wgsl';
import bindings from '../../../kernels/attention_bindings.wgsl';
import gradQSource from '../../../kernels/attention_grad_q.wgsl';
import gradKvSource from '../../../kernels/attention_grad_kv.wgsl';
import splitSource from '../../../kernels/attention_split.wgsl';
import splitGradQSource from '../../../kernels/attention_split_grad_q.wgsl';
import splitGradKvSource from '../../../kernels/attention_split_grad_kv.wgsl';
import splitHeads from '../../../kernels/split_heads.wgsl';
import { RunError } from '../../errors.ts';
import { cpuLanes, gpu } from '../device.ts';
import { kernel, type Kernel } from '../kernel.ts';
import type { Constants } from '../template.ts';
import { withHeads } from './heads.ts';

/** The kernels of attention: forward, the gradient of queries, that of keys and values. */
export type Pass = 'attention' | 'attention_grad_q' | 'attention_grad_kv';

/** Queries of a tile: one or two for each lane of a CPU's driver, else what a few workgroups take. */
export const attentionTile = (): number => (cpuLanes() ? 16 : 64);

/** How the kernels for GPUs split heads over lanes: the constants of kernels/split_heads.wgsl, PARTS workgroups a tile. */
export interface Split extends Constants {
  GROUP: number;
  OWN: number;
  QUERIES: number;
  LANES: number;
  KEYS: number;
  PARTS: number;
  AHEAD: number;
  /** Values a lane adds up at once through workgroup memory, where there are no shuffles. */
  BATCH: number;
  SHUFFLES: boolean;
}

const MOST_LANES = 128;
/** Workgroup memory for rows that are staged: more would leave a GPU too few workgroups at once. */
const STAGED = 8192;
/** Workgroup memory for sums over lanes: with rows of heads of 128 less than the 16 KiB that every device has. */
const SUMMED = 4096;

/**
 * A lane has up to 4 vec4s of each head (2 where it has 64 registers), so that what it has of its queries, results and what it reads fits its
 * registers; 8 lanes share heads of 128 and more. Throws RunError where the device has too little workgroup memory for 8 rows.
 */
export function splitOf(pass: Pass, headDim: number): Split {
  const { leastSubgroup, registers, adapter } = gpu();
  const vec4s = Math.ceil(headDim / 4);
  const group = Math.min(8, 2 ** Math.ceil(Math.log2(Math.max(1, vec4s / (registers > 64 ? 4 : 2)))));
  const own = Math.ceil(vec4s / group);
  // Numbers in registers: two, three or four arrays of own · queries vec4s, beside 2 · own of what is read.
  const most = (pass === 'attention' ? 4 : 2) / (own > 4 ? 2 : 1) / (registers > 128 ? 1 : registers > 64 ? 2 : 4);
  const queries = Math.max(1, Math.min(group, most));
  const lanes = Math.min(MOST_LANES, Math.max(64, (attentionTile() * group) / queries));
  const shuffles = group === 1 || leastSubgroup >= group;
  const row = 2 * group * own * 16 + 8; // a key, a value (or a query and its gradient), two sums
  const keys = [32, 16].find((some) => some * row <= STAGED + 8 * some) ?? 8;
  const batch = Math.floor(SUMMED / (lanes * 16));
  const summed = shuffles ? 0 : batch * lanes * 16;
  const room = adapter.limits.maxComputeWorkgroupStorageSize;
  if (keys * row + summed > room) throw new RunError(`heads of ${headDim} take ${keys * row + summed} bytes of workgroup memory, and the device has ${room}`);
  return { GROUP: group, OWN: own, QUERIES: queries, LANES: lanes, KEYS: keys, PARTS: (attentionTile() * group) / (lanes * queries),
    AHEAD: pass === 'attention' ? 8 : registers > 128 ? 2 : 1, BATCH: batch, SHUFFLES: shuffles };
}

const SOURCES: Record<Pass, { cpu: string; split: string }> = {
  attention: { cpu: source, split: splitSource },
  attention_grad_q: { cpu: gradQSource, split: splitGradQSource },
  attention_grad_kv: { cpu: gradKvSource, split: splitGradKvSource },
};

/** The form of a kernel for heads of this size on this device, and how many workgroups it takes for each tile. */
export function attentionForm(pass: Pass, headDim: number, constants: Constants): { made: Kernel; parts: number } {
  const { cpu, split } = SOURCES[pass];
  const made = (text: string, form: Constants): Kernel => kernel(pass, withHeads(`${bindings}\n${text}`), { PASS: pass, D: headDim, ...constants, ...form });
  const lanes = cpuLanes();
  if (lanes) {
    const queries = attentionTile() / lanes;
    return { made: made(cpu, { LANES: lanes, QUERIES: queries, SHUFFLES: true }), parts: pass === 'attention' ? 1 : queries };
  }
  const form = splitOf(pass, headDim);
  return { made: made(`${splitHeads}\n${split}`, form), parts: form.PARTS };
}
