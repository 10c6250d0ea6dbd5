import source from '../../../kernels/attention.wgsl';
import gradQSource from '../../../kernels/attention_grad_q.wgsl';
import gradKvSource from '../../../kernels/attention_grad_kv.wgsl';
import rotarySource from '../../../kernels/rotary.wgsl';
import { RunError } from '../../errors.ts';
import { gpu } from '../device.ts';
import { kernel } from '../kernel.ts';
import { mirrorWidth, readsTextures, type Mirror } from '../mirror.ts';
import { clear, f32, launch, mirrorOf } from '../program.ts';
import { rowGrid, type Tape } from '../tape.ts';
import { release, scratch, type Tensor } from '../tensor.ts';
import { headWidths, withHeads } from './heads.ts';

/** How heads lie in a token's row: query heads, then key heads, then value heads. */
export interface HeadShape {
  heads: number;
  kvHeads: number;
  headDim: number;
}

/**
 * Lanes a workgroup, queries a lane and keys a step of the attention kernels on this device. Without subgroups of 8, keys and
 * values of a step lie in workgroup memory: as many as fit in 20 KiB, at least 8, whatever the lanes. Throws RunError where the device has
 * too little of it, as with the 16 KiB that each has for heads of 256.
 */
export function attentionTile(headDim: number): { lanes: number; queries: number; keys: number } {
  if (gpu().subgroup === 8) return { lanes: 8, queries: 2, keys: 8 };
  const bytes = 2 * Math.ceil(headDim / 4) * 16 + 8; // a key, a value (or a query and its gradient), two sums
  const most = gpu().adapter.limits.maxComputeWorkgroupStorageSize;
  const keys = [32, 16].find((some) => some * bytes <= Math.min(20480, most)) ?? 8;
  if (keys * bytes > most) throw new RunError(`heads of ${headDim} take ${keys * bytes} bytes of workgroup memory, and the device has ${most}`);
  return { lanes: 64, queries: 1, keys };
}

/** One tile: a run of queries of one row. */
export function attentionTiles(rows: readonly { first: number; length: number }[], headDim: number): Uint32Array {
  const { lanes, queries } = attentionTile(headDim);
  const tiles: number[] = [];
  for (const { first, length } of rows) {
    for (let q = 0; q < length; q += lanes * queries) tiles.push(first, length, q, 0);
  }
  return Uint32Array.from(tiles);
}

/** How long rows may be for what is told of attention's work; how long they are is known when the recorded step runs. */
const SOME_KEYS = 2048;

const columns = ({ heads, kvHeads, headDim }: HeadShape): number => (heads + 2 * kvHeads) * headDim;

/** Rotates queries and keys of qkv [N, (H+2·kv)·D] in place by `positions` [N]; `table` [context, D] = cos | sin. */
export function rotary(tape: Tape, qkv: Tensor, shape: HeadShape, table: Tensor, positions: Tensor): void {
  const { heads, kvHeads, headDim } = shape;
  const half = headDim / 2;
  const unit = half % 4 === 0 ? 4 : 1;
  const { each, grid } = rowGrid(((heads + kvHeads) * half) / unit, qkv.rows);
  const turn = (sign: number, x: Tensor): void => {
    launch(kernel('rotary', rotarySource, { SIGN: sign, HALF: half, VEC: unit === 4 }), [table, positions, x],
      [qkv.rows, each, heads + kvHeads, heads, qkv.stride / unit, (heads * headDim) / unit], grid);
  };
  turn(1, qkv);
  tape.push([], () => turn(-1, tape.target(qkv).gradient));
}

/** o [N, H·D]: causal attention of each row with itself, rows given by `tiles` [T,4] (see kernels/attention.wgsl). */
export function attention(tape: Tape, qkv: Tensor, shape: HeadShape, tiles: Tensor): Tensor {
  const { heads, kvHeads, headDim } = shape;
  if (qkv.cols !== columns(shape)) throw new Error(`attention: ${qkv.cols} columns for ${columns(shape)}`);
  const { lanes, queries, keys } = attentionTile(headDim);
  const o = tape.value(qkv.rows, heads * headDim);
  const lse = scratch(qkv.rows, heads, heads);
  if (o.stride !== o.cols) clear(o);
  const textured = readsTextures() && headDim % 4 === 0;
  const width = ({ storage }: Tensor): number => (textured ? mirrorWidth(storage) : 0);
  const constants = { D: headDim, LANES: lanes, QUERIES: queries, KEYS: keys, ...headWidths({ QKV: width(qkv) }) };
  const read = (tensor: Tensor): Tensor | Mirror => (textured ? mirrorOf(tensor) : tensor);
  const first = (tensor: Tensor | Mirror): number => ('first' in tensor ? tensor.first * 4 : 0);
  const words = [heads, qkv.stride, o.stride, heads * headDim, (heads + kvHeads) * headDim, heads / kvHeads, f32(1 / Math.sqrt(headDim))];
  const input = read(qkv);
  const pairs = qkv.rows * (Math.min(qkv.rows, SOME_KEYS) / 2) * heads * headDim; // of a number of a query and one of a key
  launch(kernel('attention', withHeads(source), constants), [tiles, input, o, lse], [...words, first(input), 0], [tiles.rows, heads], 4 * pairs);
  tape.push([qkv, o, lse], () => {
    const dO = tape.take(o);
    const { gradient, add } = tape.target(qkv);
    if (add) throw new Error('attention writes the only gradient of its input');
    if (gradient.stride !== gradient.cols) clear(gradient);
    const delta = scratch(qkv.rows, heads, heads);
    const [x, dy] = [read(qkv), read(dO)];
    const gradConstants = { ...constants, ...headWidths({ QKV: width(qkv), DO: width(dO) }) };
    const all = [...words, first(x), first(dy)];
    launch(kernel('attention_grad_q', withHeads(gradQSource), gradConstants), [tiles, x, o, lse, dy, gradient, delta], all, [tiles.rows * queries, heads], 6 * pairs);
    launch(kernel('attention_grad_kv', withHeads(gradKvSource), gradConstants), [tiles, x, lse, delta, dy, gradient], all, [tiles.rows * queries, kvHeads], 8 * pairs);
    release(dO, delta);
  });
  tape.done(lse);
  return o;
}
