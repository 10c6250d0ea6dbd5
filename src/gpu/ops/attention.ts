import source from '../../../kernels/attention.wgsl';
import gradQSource from '../../../kernels/attention_grad_q.wgsl';
import gradKvSource from '../../../kernels/attention_grad_kv.wgsl';
import rotarySource from '../../../kernels/rotary.wgsl';
import { gpu } from '../device.ts';
import { kernel } from '../kernel.ts';
import { clear, f32, launch } from '../program.ts';
import { spread, type Tape } from '../tape.ts';
import { release, scratch, type Tensor } from '../tensor.ts';

/** How heads lie in a token's row: query heads, then key heads, then value heads. */
export interface HeadShape {
  heads: number;
  kvHeads: number;
  headDim: number;
}

/**
 * Lanes a workgroup, queries a lane and keys a step of the attention kernels on this device. Without subgroups of 8, keys and
 * values of a step lie in workgroup memory: as many as fit the 16 KiB that every device has, whatever the lanes.
 */
export function attentionTile(headDim: number): { lanes: number; queries: number; keys: number } {
  if (gpu().subgroup === 8) return { lanes: 8, queries: 2, keys: 8 };
  const bytes = 2 * Math.ceil(headDim / 4) * 16 + 8; // a key, a value (or a query and its gradient), two sums
  const room = Math.min(20480, gpu().device.limits.maxComputeWorkgroupStorageSize);
  return { lanes: 64, queries: 1, keys: [32, 16].find((keys) => keys * bytes <= room) ?? 8 };
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

const columns = ({ heads, kvHeads, headDim }: HeadShape): number => (heads + 2 * kvHeads) * headDim;

/** Rotates queries and keys of qkv [N, (H+2·kv)·D] in place by `positions` [N]; `table` [context, D] = cos | sin. */
export function rotary(tape: Tape, qkv: Tensor, shape: HeadShape, table: Tensor, positions: Tensor): void {
  const { heads, kvHeads, headDim } = shape;
  const count = qkv.rows * (heads + kvHeads);
  const turn = (sign: number, x: Tensor): void => {
    launch(kernel('rotary', rotarySource, { SIGN: sign }), [table, positions, x],
      [qkv.rows, heads + kvHeads, heads, qkv.stride, heads * headDim, headDim], spread(count));
  };
  turn(1, qkv);
  tape.push([], () => turn(-1, tape.target(qkv).gradient));
}

/** o [N, H·D]: causal attention of each row with itself, rows given by `tiles` [T,4] (see kernels/attention.wgsl). */
export function attention(tape: Tape, qkv: Tensor, shape: HeadShape, tiles: Tensor): Tensor {
  const { heads, kvHeads, headDim } = shape;
  if (qkv.cols !== columns(shape)) throw new Error(`attention: ${qkv.cols} columns for ${columns(shape)}`);
  const { lanes, queries, keys } = attentionTile(headDim);
  const o = scratch(qkv.rows, heads * headDim);
  const lse = scratch(qkv.rows, heads, heads);
  if (o.stride !== o.cols) clear(o);
  const words = [heads, qkv.stride, o.stride, heads * headDim, (heads + kvHeads) * headDim, heads / kvHeads, f32(1 / Math.sqrt(headDim))];
  const constants = { D: headDim, LANES: lanes, QUERIES: queries, KEYS: keys };
  launch(kernel('attention', source, constants), [tiles, qkv, o, lse], words, [tiles.rows, heads]);
  tape.push([qkv, o, lse], () => {
    const dO = tape.take(o);
    const { gradient, add } = tape.target(qkv);
    if (add) throw new Error('attention writes the only gradient of its input');
    if (gradient.stride !== gradient.cols) clear(gradient);
    const delta = scratch(qkv.rows, heads, heads);
    launch(kernel('attention_grad_q', gradQSource, constants), [tiles, qkv, o, lse, dO, gradient, delta], words, [tiles.rows * queries, heads]);
    launch(kernel('attention_grad_kv', gradKvSource, constants), [tiles, qkv, lse, delta, dO, gradient], words, [tiles.rows * queries, kvHeads]);
    release(dO, delta);
  });
  tape.done(lse);
  return o;
}
