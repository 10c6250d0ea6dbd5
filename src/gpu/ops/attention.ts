import rotarySource from '../../../kernels/rotary.wgsl';
import { kernel } from '../kernel.ts';
import { readsTextures, type Mirror } from '../mirror.ts';
import { mirrorWidth } from '../mirror_layout.ts';
import { clear, f32, launch, mirrorOf } from '../program.ts';
import { rowGrid, type Tape } from '../tape.ts';
import { release, scratch, type Tensor } from '../tensor.ts';
import { attentionForm, attentionTile } from './attention_forms.ts';
import { headWidths } from './heads.ts';

/** How heads lie in a token's row: query heads, then key heads, then value heads. */
export interface HeadShape {
  heads: number;
  kvHeads: number;
  headDim: number;
}

/** Tokens that attend to one another, each to those before it. */
export interface Span {
  /** Where its first token lies, or would lie, were those of `shared` right before its own. */
  first: number;
  /** Tokens, those of `shared` included. */
  length: number;
  /** What it goes on from: so many tokens, which lie `above` places further up, are its first. */
  shared?: { tokens: number; above: number };
  /** Tokens behind it of rows that go on from all of its own. */
  followers?: number;
}

/** More tokens than this cannot be told in a tile. */
export const MOST_SHARED = 0xffff;

/** Tiles [T,4], each a run of queries of one row. */
export function attentionTiles(rows: readonly Span[]): Uint32Array {
  const each = attentionTile();
  const tiles: number[] = [];
  for (const { first, length, shared, followers = 0 } of rows) {
    const sharing = shared ? shared.tokens * 2 ** 16 + shared.above : followers;
    for (let q = shared?.tokens ?? 0; q < length; q += each) tiles.push(first, length, q, sharing);
  }
  return new Uint32Array(tiles);
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
  const o = tape.value(qkv.rows, heads * headDim);
  const lse = scratch(qkv.rows, heads, heads);
  if (o.stride !== o.cols) clear(o);
  const textured = readsTextures() && headDim % 4 === 0;
  const width = ({ storage }: Tensor): number => (textured ? mirrorWidth(storage) : 0);
  const read = (tensor: Tensor): Tensor | Mirror => (textured ? mirrorOf(tensor) : tensor);
  const first = (tensor: Tensor | Mirror): number => ('first' in tensor ? tensor.first * 4 : 0);
  const words = [heads, qkv.stride, o.stride, heads * headDim, (heads + kvHeads) * headDim, heads / kvHeads, f32(1 / Math.sqrt(headDim))];
  const input = read(qkv);
  const pairs = qkv.rows * (Math.min(qkv.rows, SOME_KEYS) / 2) * heads * headDim; // of a number of a query and one of a key
  const form = attentionForm('attention', headDim, headWidths({ QKV: width(qkv) }));
  launch(form.made, [tiles, input, o, lse], [...words, first(input), 0], [tiles.rows * form.parts, heads], 4 * pairs);
  tape.push([qkv, o, lse], () => {
    const dO = tape.take(o);
    const { gradient, add } = tape.target(qkv);
    if (add) throw new Error('attention writes the only gradient of its input');
    if (gradient.stride !== gradient.cols) clear(gradient);
    const delta = scratch(qkv.rows, heads, heads);
    const [x, dy] = [read(qkv), read(dO)];
    const widths = headWidths({ QKV: width(qkv), DO: width(dO) });
    const [ofQueries, ofKeys] = [attentionForm('attention_grad_q', headDim, widths), attentionForm('attention_grad_kv', headDim, widths)];
    const all = [...words, first(x), first(dy)];
    launch(ofQueries.made, [tiles, x, o, lse, dy, gradient, delta], all, [tiles.rows * ofQueries.parts, heads], 6 * pairs);
    launch(ofKeys.made, [tiles, x, lse, delta, dy, gradient], all, [tiles.rows * ofKeys.parts, kvHeads], 8 * pairs);
    release(dO, delta);
  });
  tape.done(lse);
  return o;
}
