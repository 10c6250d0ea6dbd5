import { attentionGradOf, attentionOf } from './reference/attention.ts';
import { normGradOf, normOf } from './reference/norm.ts';
import { rotaryOf } from './reference/rotary.ts';
import { swigluGradOf, swigluOf } from './reference/swiglu.ts';
import { cpuLanes, gpu } from '../gpu/device.ts';
import { attention, attentionTiles, type HeadShape, rotary } from '../gpu/ops/attention.ts';
import { norm } from '../gpu/ops/norm.ts';
import { swiglu } from '../gpu/ops/swiglu.ts';
import { copy } from '../gpu/program.ts';
import { addInto, type Tape } from '../gpu/tape.ts';
import type { Storage, Tensor } from '../gpu/tensor.ts';
import { type Check, close, inBoth, type KernelTest, roundingOf } from './check.ts';
import { column, compute, differentiate, matrix, numbers, parameter } from './on_device.ts';

/** Head sizes that are and are not multiples of 4, with several and with one query head to a key head. */
const SHAPES: HeadShape[] = [
  { heads: 4, kvHeads: 2, headDim: 16 },
  { heads: 3, kvHeads: 3, headDim: 10 },
  { heads: 2, kvHeads: 1, headDim: 64 },
];
/** In f16, without the largest heads on a software driver, which takes long to compile them. */
const shapesIn = (storage: Storage): HeadShape[] => SHAPES.filter(({ headDim }) => storage === 'f32' || !gpu().software || headDim < 64);
const columns = ({ heads, kvHeads, headDim }: HeadShape): number => (heads + 2 * kvHeads) * headDim;
const title = ({ heads, kvHeads, headDim }: HeadShape): string => `${heads}/${kvHeads} heads of ${headDim}`;

/** On a GPU also rows that a workgroup takes. */
const normSizes = (): (readonly [number, number])[] => [[133, 67], ...(cpuLanes() ? [] : [[3, 4100] as const])];

async function checkNorm(kind: 'layer' | 'rms', storage: Storage, [rows, cols]: readonly [number, number]): Promise<Check[]> {
  const { normals } = numbers(2);
  const [x, weight, bias, dy] = [normals(rows * cols), normals(cols), normals(cols), normals(rows * cols)];
  const input = { x, cols, kind, weight, bias: kind === 'layer' ? bias : undefined, eps: 1e-5 };
  const [X, W, B] = [matrix(x, cols), parameter(weight, cols), parameter(bias, cols)];
  const op = (tape: Tape): Tensor => norm(tape, X, kind, W, kind === 'layer' ? B : undefined, input.eps);
  const got = await differentiate(op, matrix(dy, cols), [X], kind === 'layer' ? [W, B] : [W], storage);
  const expected = normGradOf(input, dy);
  const what = `${kind} of ${cols}`;
  return [
    close(what, got.y, normOf(input), roundingOf(storage)),
    close(`${what}: gradient`, got.inputs[0], expected.dx),
    close(`${what}: gradient of the weight`, got.weights[0], expected.dWeight),
    ...got.weights.slice(1).map((db) => close(`${what}: gradient of the bias`, db, expected.dBias)),
  ];
}

/** With f16, the gradient hangs on the stored result too. */
export async function checkAttention(shape: HeadShape, storage: Storage): Promise<Check[]> {
  const lengths = [1, 65, 9, 31, 130];
  const spans = lengths.map((length, i) => ({ first: lengths.slice(0, i).reduce((a, b) => a + b, 0), length }));
  const tokens = lengths.reduce((a, b) => a + b);
  const { normals } = numbers(3, storage);
  const [qkv, dO] = [normals(tokens * columns(shape)), normals(tokens * shape.heads * shape.headDim)];
  const X = matrix(qkv, columns(shape), undefined, storage);
  const tiles = matrix(attentionTiles(spans), 4);
  const dy = matrix(dO, shape.heads * shape.headDim);
  const got = await differentiate((tape) => attention(tape, X, shape, tiles), dy, [X], [], storage);
  return [
    close(title(shape), got.y, attentionOf(qkv, shape, spans), roundingOf(storage)),
    close(`${title(shape)}: gradient`, got.inputs[0], attentionGradOf(qkv, shape, spans, dO), roundingOf(storage)),
    ...await checkSharedBeginning(shape, storage),
  ];
}

/** Rows of 9 and 66 tokens that go on from the same 67, against whole rows. */
async function checkSharedBeginning(shape: HeadShape, storage: Storage): Promise<Check[]> {
  const [begin, ...own] = [67, 9, 66];
  const tokens = begin + own[0] + own[1];
  const { normals } = numbers(9, storage);
  const [cols, width] = [columns(shape), shape.heads * shape.headDim];
  const [qkv, dO] = [normals(tokens * cols), normals(tokens * width)];
  const X = matrix(qkv, cols, undefined, storage);
  const tiles = matrix(attentionTiles([
    { first: 0, length: begin, followers: own[0] + own[1] },
    { first: 0, length: begin + own[0], shared: { tokens: begin, above: 0 } },
    { first: own[0], length: begin + own[1], shared: { tokens: begin, above: own[0] } },
  ]), 4);
  const got = await differentiate((tape) => attention(tape, X, shape, tiles), matrix(dO, width), [X], [], storage);
  // The second row behind the first as a whole one; the beginning's own results are asked for in the first alone.
  const whole = (values: Float32Array, each: number, again: Float32Array): Float32Array =>
    Float32Array.from([...values.subarray(0, (begin + own[0]) * each), ...again, ...values.subarray((begin + own[0]) * each)]);
  const spans = [{ first: 0, length: begin + own[0] }, { first: begin + own[0], length: begin + own[1] }];
  const all = whole(qkv, cols, qkv.subarray(0, begin * cols));
  const without = (values: ArrayLike<number>, each: number, add: boolean): Float64Array => {
    const [from, to] = [(begin + own[0]) * each, (2 * begin + own[0]) * each];
    const kept = Float64Array.from(Array.from(values).filter((_, i) => i < from || i >= to));
    if (add) for (let i = from; i < to; i++) kept[i - from]! += values[i]!;
    return kept;
  };
  const dAll = whole(dO, width, new Float32Array(begin * width));
  return [
    close(`${title(shape)}, a beginning shared`, got.y, without(attentionOf(all, shape, spans), width, false), roundingOf(storage)),
    close(`${title(shape)}, a beginning shared: gradient`, got.inputs[0], without(attentionGradOf(all, shape, spans, dAll), cols, true), roundingOf(storage)),
  ];
}

async function checkRotary(shape: HeadShape, storage: Storage): Promise<Check[]> {
  const [rows, context, theta] = [37, 50, 10000];
  const { normals, integers } = numbers(4, storage);
  const cols = columns(shape);
  const [qkv, dy, at] = [normals(rows * cols), normals(rows * cols), integers(rows, context)];
  const half = shape.headDim / 2;
  const table = Float32Array.from({ length: context * shape.headDim }, (_, i) => {
    const d = i % shape.headDim;
    const angle = Math.floor(i / shape.headDim) * theta ** ((-2 * (d % half)) / shape.headDim);
    return d < half ? Math.cos(angle) : Math.sin(angle);
  });
  const [X, TABLE, AT] = [matrix(qkv, cols, undefined, storage), matrix(table, shape.headDim, shape.headDim), column(at)];
  // In place, forward and backward: the op works on a copy, whose gradient is the input's once it is turned back.
  const op = (tape: Tape): Tensor => {
    const turned = tape.value(rows, cols);
    copy(X, turned);
    tape.push([], () => tape.give(X, tape.take(turned)));
    rotary(tape, turned, shape, TABLE, AT);
    return turned;
  };
  const got = await differentiate(op, matrix(dy, cols), [X], [], storage);
  return [
    close(title(shape), got.y, rotaryOf(qkv, shape, theta, at), roundingOf(storage)),
    close(`${title(shape)}: gradient`, got.inputs[0], rotaryOf(dy, shape, theta, at, -1)),
  ];
}

async function checkSwiglu(storage: Storage): Promise<Check[]> {
  const [rows, width] = [37, 68];
  const { normals } = numbers(5, storage);
  const [x, dy] = [normals(rows * 2 * width, 2), normals(rows * width)];
  const X = matrix(x, 2 * width, undefined, storage);
  const got = await differentiate((tape) => swiglu(tape, X), matrix(dy, width), [X], [], storage);
  return [close('result', got.y, swigluOf(x, width), roundingOf(storage)), close('gradient', got.inputs[0], swigluGradOf(x, width, dy))];
}

async function checkAdd(): Promise<Check[]> {
  const { normals } = numbers(6);
  const [a, b] = [normals(37 * 67), normals(37 * 67)];
  const [A, B] = [matrix(a, 67), matrix(b, 67)];
  const [sum] = await compute(() => addInto(A, B), [A]);
  return [
    close(
      'sum',
      sum,
      a.map((x, i) => x + b[i]),
      0,
    ),
  ];
}

const each = async <T>(list: readonly T[], check: (item: T) => Promise<Check[]>): Promise<Check[]> =>
  (await Promise.all(list.map(check))).flat();

const ATTENTION = ['', '_split'].flatMap((form) => ['', '_grad_q', '_grad_kv'].map((pass) => `attention${form}${pass}`)).concat('attention_bindings', 'heads', 'split_heads');

export const layerTests: KernelTest[] = [
  ...inBoth('norm', ['norm', 'norm_grad', 'column_sum'], (storage) => each(['layer', 'rms'] as const, (kind) =>
    each(normSizes(), (size) => checkNorm(kind, storage, size)))),
  ...inBoth('attention', ATTENTION, (storage) =>
    each(shapesIn(storage), (shape) => checkAttention(shape, storage)),
  ),
  ...inBoth('rotary', ['rotary'], (storage) => each(SHAPES, (shape) => checkRotary(shape, storage))),
  ...inBoth('swiglu', ['swiglu'], checkSwiglu),
  { name: 'add', kernels: ['add'], run: checkAdd },
];
