import { RandomStream } from '../train/random.ts';
import { copy, record } from '../gpu/program.ts';
import { type Parameter, Tape } from '../gpu/tape.ts';
import { download, persistent, scratch, type Tensor, upload, vector } from '../gpu/tensor.ts';

/** Seeded random numbers for a test: the same on every machine. */
export function numbers(seed: number) {
  const stream = new RandomStream(seed, 'initialise', 0x5e1f);
  return {
    normals: (n: number, scale = 1): Float32Array => Float32Array.from({ length: n }, () => stream.normal() * scale),
    below: (n: number): number => stream.below(n),
    integers: (n: number, limit: number): Uint32Array => Uint32Array.from({ length: n }, () => stream.below(limit)),
  };
}

/** A device matrix of these numbers, rows of `cols`; the stride is a multiple of 4 unless given. */
export function matrix(values: Float32Array | Uint32Array, cols: number, stride?: number): Tensor {
  const tensor = persistent(values.length / cols, cols, stride);
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
export function parameter(values: Float32Array, cols: number): Parameter & { grad: Tensor } {
  const value = matrix(values, cols);
  return { name: 'weight', value, grad: persistent(value.rows, cols) };
}

/** Records `build`, runs it once and reads tensors back as float32. */
export async function compute(build: () => void, outputs: readonly Tensor[]): Promise<Float32Array[]> {
  const program = await record(build).ready();
  program.run();
  return (await download(...outputs)).map((bytes) => new Float32Array(bytes));
}

/** The same numbers as unsigned integers. */
export const words = (values: Float32Array): Uint32Array =>
  new Uint32Array(values.buffer, values.byteOffset, values.length);

/** An op's result, and the gradients of Σ dy·y by each of `inputs` and `weights`. */
export async function differentiate(
  op: (tape: Tape) => Tensor,
  dy: Tensor,
  inputs: readonly Tensor[],
  weights: readonly { grad: Tensor }[] = [],
): Promise<{ y: Float32Array; inputs: Float32Array[]; weights: Float32Array[] }> {
  const like = ({ rows, cols, stride }: Tensor): Tensor => persistent(rows, cols, stride);
  const result = like(dy);
  const gradients = inputs.map(like);
  const build = (): void => {
    const tape = new Tape(true);
    // Pushed first and so run last: by then all that flows into the inputs has arrived.
    tape.push([], () => inputs.forEach((x, i) => copy(tape.take(x), gradients[i])));
    const y = op(tape);
    copy(y, result);
    const arriving = scratch(dy.rows, dy.cols, dy.stride);
    copy(dy, arriving);
    tape.give(y, arriving);
    tape.done(y);
    tape.backward();
  };
  const [y, ...rest] = await compute(build, [result, ...gradients, ...weights.map((w) => w.grad)]);
  return { y, inputs: rest.slice(0, inputs.length), weights: rest.slice(inputs.length) };
}
