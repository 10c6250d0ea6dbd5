import advanceSource from '../../../kernels/decode_advance.wgsl';
import attentionSource from '../../../kernels/attention_decode.wgsl';
import copySource from '../../../kernels/cache_copy.wgsl';
import inputSource from '../../../kernels/decode_input.wgsl';
import writeSource from '../../../kernels/cache_write.wgsl';
import { kernel } from '../kernel.ts';
import { readsTextures, standingMirror, type Mirror } from '../mirror.ts';
import type { MirrorTexture } from '../mirror_texture.ts';
import { mirrorWidth } from '../mirror_layout.ts';
import { clear, copyToMirror, f32, launch } from '../program.ts';
import { rowGrid } from '../tape.ts';
import { destroy, persistent, scratch, type Storage, type Tensor } from '../tensor.ts';
import { headWidths, withHeads } from './heads.ts';
import { decodeLanes, rowKernel } from './reduction.ts';
import type { HeadShape } from './attention.ts';

/** One layer's keys and values: [slots, key heads, length, D] each, so that what a head reads lies end to end. */
export interface LayerCache {
  keys: Tensor;
  values: Tensor;
  /** The same numbers in textures, where the driver reads those faster. */
  textures?: { keys: Mirror<MirrorTexture>; values: Mirror<MirrorTexture> };
}

/** A layer's cache of so many `places` (slots·length), filled with zeros. */
export function layerCache(places: number, { kvHeads, headDim }: HeadShape, storage: Storage): LayerCache {
  const width = kvHeads * headDim;
  const [keys, values] = [persistent(places, width, width, storage), persistent(places, width, width, storage)];
  if (!readsTextures() || headDim % 4) return { keys, values };
  return { keys, values, textures: { keys: standingMirror(keys), values: standingMirror(values) } };
}

/** Frees a layer's cache. */
export function freeCache({ keys, values, textures }: LayerCache): void {
  destroy(keys, values);
  textures?.keys.texture.destroy();
  textures?.values.texture.destroy();
}

/** What the rows of a decoding step read: ids, positions [A], random keys [A,4], from the slots' state. */
export interface DecodeInput {
  ids: Tensor;
  positions: Tensor;
  keys: Tensor;
}

/** The state of decoding, a slot a row being written (see kernels/decode_input.wgsl). */
export interface DecodeState {
  /** [S,8]: token, position, key ×3, draw number, drawn so far, finished (1 at an end token, 2 at the limit, 3 nothing to draw). */
  state: Tensor;
  /** [S] most tokens to draw. */
  limits: Tensor;
  /** End tokens. */
  ends: Tensor;
  /** [S, L] tokens drawn. */
  drawn: Tensor;
}

/** Stores keys and values of qkv [N, …] at (slots [N], positions [N]) of a layer's cache of `length` places a slot. */
export function cacheWrite(qkv: Tensor, shape: HeadShape, slots: Tensor, positions: Tensor, cache: LayerCache, length: number): void {
  const { heads, kvHeads, headDim } = shape;
  const vec = headDim % 4 === 0;
  const unit = vec ? 4 : 1;
  const { textures } = cache;
  const made = kernel('cache_write', writeSource, { VEC: vec, TEXTURES: textures ? mirrorWidth(cache.keys.storage) : 0 });
  const words = [kvHeads * headDim, qkv.stride, heads * headDim, (heads + kvHeads) * headDim].map((n) => n / unit);
  const { each, grid } = rowGrid((kvHeads * headDim) / unit, qkv.rows);
  launch(made, [slots, positions, qkv, cache.keys, cache.values, ...(textures ? [textures.keys, textures.values] : [])],
    [qkv.rows, each, ...words, length, headDim / unit], grid);
}

/**
 * Copies slots' first places, at most `longest`, to other slots: `pairs` [Q,4] = (from, to, places, 0); unused pairs have 0 places. No slot
 * is both copied from and copied to.
 */
export function cacheCopy(pairs: Tensor, shape: HeadShape, cache: LayerCache, length: number, longest: number): void {
  const vec = shape.headDim % 4 === 0;
  const d = shape.headDim / (vec ? 4 : 1);
  const width = shape.kvHeads * d;
  const { each, grid } = rowGrid(width, longest);
  launch(kernel('cache_copy', copySource, { VEC: vec }), [pairs, cache.keys, cache.values], [length, each, width, d], [...grid, pairs.rows]);
  if (cache.textures) {
    copyToMirror(cache.keys, cache.textures.keys);
    copyToMirror(cache.values, cache.textures.values);
  }
}

/** o [A, H·D]: each row's query against its slot's cache up to its position. */
export function attentionDecode(qkv: Tensor, shape: HeadShape, slots: Tensor, positions: Tensor, cache: LayerCache, length: number): Tensor {
  const { heads, kvHeads, headDim } = shape;
  const o = scratch(qkv.rows, heads * headDim, undefined, qkv.storage);
  if (o.stride !== o.cols) clear(o);
  const { keys, values, textures } = cache;
  const width = textures ? mirrorWidth(keys.storage) : 0;
  const { made, rows: each } = rowKernel('attention_decode', withHeads(attentionSource), decodeLanes(), { D: headDim, ...headWidths({ K: width, V: width }) });
  launch(made,
    [slots, positions, qkv, textures?.keys ?? keys, textures?.values ?? values, o],
    [heads, qkv.stride, o.stride, length, heads / kvHeads, f32(1 / Math.sqrt(headDim))], [Math.ceil(heads / each), qkv.rows]);
  return o;
}

/** Collects the next step's input of the rows' slots. */
export function decodeInput(slots: Tensor, state: Tensor, input: DecodeInput): void {
  launch(kernel('decode_input', inputSource), [slots, state, input.ids, input.positions, input.keys], [slots.rows],
    [Math.ceil(slots.rows / 64)]);
}

/** Takes drawn tokens [A] into their slots' state. */
export function decodeAdvance(slots: Tensor, next: Tensor, decode: DecodeState): void {
  launch(kernel('decode_advance', advanceSource), [slots, next, decode.limits, decode.ends, decode.state, decode.drawn],
    [slots.rows, decode.drawn.cols, decode.ends.rows], [Math.ceil(slots.rows / 64)]);
}
