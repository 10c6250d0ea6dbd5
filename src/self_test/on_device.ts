import { floatToHalf, halfToFloat } from '../files/float_formats.ts';
import { RandomStream } from '../train/random.ts';
import { copy, record } from '../gpu/program.ts';
import { type Parameter, Tape } from '../gpu/tape.ts';
import { download, persistent, scratch, type Storage, type Tensor, upload, vector } from '../gpu/tensor.ts';

/** Seeded random numbers for a test, the same on every machine; with `storage` f16 such as f16 holds exactly. */
export function numbers(seed: number, storage: Storage = 'f32') {
  const stream = new RandomStream(seed, 'initialise', 0x5e1f);
  const stored = (x: number): number => (storage === 'f16' ? halfToFloat(floatToHalf(x)) : x);
  return {
    normals: (n: number, scale = 1): Float32Array => Float32Array.from({ length: n }, () => stored(stream.normal() * scale)),
    below: (n: number): number => stream.below(n),
    integers: (n: number, limit: number): Uint32Array => Uint32Array.from({ length: n }, () => stream.below(limit)),
  };
}

/** A device matrix of these numbers, rows of `cols`; the stride is a multiple of 4 unless given. */
export function matrix(values: Float32Array | Uint32Array, cols: number, stride?: number, storage?: Storage): Tensor {
  const tensor = persistent(values.length / cols, cols, stride, storage);
  upload(tensor, values);
  return tensor;
}

/** A device column of these numbers. */
export function column(values: Float32Array | Uint32Array): Tensor {
  const tensor = vector(values.length);
  upload(tensor, values);
  return tensor;
}

/** A weight of these numbers, rows of `cols`, with a gradient of zeros. */
export function parameter(values: Float32Array, cols: number, storage?: Storage): Parameter & { grad: Tensor } {
  const value = matrix(values, cols, undefined, storage);
  return { name: 'weight', value, grad: persistent(value.rows, cols) };
}

/** Records `build`, runs it once and reads tensors back as float32. */
export async function compute(build: () => void, outputs: readonly Tensor[] | (() => Tensor[])): Promise<Float32Array[]> {
  const program = await record(build).ready();
  program.run();
  return (await download(...(typeof outputs === 'function' ? outputs() : outputs))).map((bytes) => new Float32Array(bytes));
}

/** The same numbers as unsigned integers. */
export const words = (values: Float32Array): Uint32Array =>
  new Uint32Array(values.buffer, values.byteOffset, values.length);

/** An op's result, stored as `storage` says, and the gradients of Σ dy·y by each of `inputs` and `weights`. */
export async function differentiate(
  op: (tape: Tape) => Tensor,
  dy: Tensor,
  inputs: readonly Tensor[],
  weights: readonly { grad: Tensor }[] = [],
  storage?: Storage,
): Promise<{ y: Float32Array; inputs: Float32Array[]; weights: Float32Array[] }> {
  const like = ({ rows, cols, stride }: Tensor): Tensor => persistent(rows, cols, stride);
  const gradients = inputs.map(like);
  const results: Tensor[] = [];
  const build = (): void => {
    const tape = new Tape(true, storage);
    // Pushed first and so run last: by then all that flows into the inputs has arrived.
    tape.push([], () => inputs.forEach((x, i) => copy(tape.take(x), gradients[i])));
    const y = op(tape);
    results.push(persistent(y.rows, y.cols, y.stride, y.storage));
    copy(y, results[0]);
    const arriving = scratch(dy.rows, dy.cols, dy.stride);
    copy(dy, arriving);
    tape.give(y, arriving);
    tape.done(y);
    tape.backward();
  };
  const rest = await compute(build, () => [...gradients, ...weights.map((w) => w.grad), results[0]]);
  return { y: rest.pop()!, inputs: rest.slice(0, inputs.length), weights: rest.slice(inputs.length) };
}
