import { UsageError } from '../errors.ts';
import { adamw, gradientNorm, HYPER_LENGTH, hyperAt } from '../gpu/ops/adamw.ts';
import { attention, attentionTiles } from '../gpu/ops/attention.ts';
import { narrow } from '../gpu/ops/half.ts';
import { matmul, type Mode } from '../gpu/ops/matmul.ts';
import { tokenLogprob } from '../gpu/ops/token_logprob.ts';
import { record, type Program } from '../gpu/program.ts';
import { Tape } from '../gpu/tape.ts';
import { bytesOf, destroy, persistent, stage, upload, vector, type Storage, type Tensor } from '../gpu/tensor.ts';
import { type BenchCase, type BenchRun, goesBy } from './measure.ts';
import { stockGemm } from './tfjs.ts';

/** A kernel to time: the sizes that always are, and those that only keep a GPU busy. */
interface Kind {
  name: string;
  /** How a size is written; what is in brackets may be left out. */
  form: string;
  sizes: readonly (readonly number[])[];
  large: readonly (readonly number[])[];
  make(size: readonly number[], storage: Storage): BenchCase;
}

const GEMMS = [[2048, 512, 128], [4096, 512, 512], [512, 64, 64], [512, 1024, 64], [1000, 43, 172], [64, 384, 128]] as const;
const LARGE_GEMMS = [[4096, 4096, 4096], [8192, 3072, 768], [8192, 768, 3072]] as const;
const ATTENTIONS = { form: 'ROWSxTxHEADSxDIM[xKVHEADS]', sizes: [[16, 128, 4, 32], [32, 64, 4, 32]], large: [[8, 1024, 12, 64], [2, 4096, 12, 64]] };
const modes = (name: string, make: (mode: Mode, size: readonly number[], storage: Storage) => BenchCase): Kind[] =>
  (['nn', 'nt', 'tn'] as const).map((mode) =>
    ({ name: `${name}_${mode}`, form: 'MxNxK', sizes: GEMMS, large: LARGE_GEMMS, make: (size, storage) => make(mode, size, storage) }));

const KINDS: readonly Kind[] = [
  ...modes('gemm', gemm),
  { name: 'attention_forward', ...ATTENTIONS, make: attentionForward },
  { name: 'attention_backward', ...ATTENTIONS, make: attentionBackward },
  { name: 'cross_entropy', form: 'MxCxV', sizes: [[2048, 128, 1024]], large: [[8192, 768, 50257]], make: crossEntropy },
  { name: 'adamw', form: 'PARAMETERS', sizes: [[2 ** 20]], large: [[2 ** 27]], make: optimiser },
  ...modes('tfjs', stockGemm),
];

/** Single kernels, weights and activations stored as `storage` says; with `large` also sizes that keep a GPU busy. */
export const kernelCases = (large: boolean, storage: Storage): BenchCase[] =>
  KINDS.flatMap(({ sizes, large: more, make }) => [...sizes, ...(large ? more : [])].map((size) => make(size, storage)));

/**
 * The kernels that `NAME:SIZE` asks for, such as gemm_nt:1000x768x64, or gemm:1000x768x64 for all of gemm_…
 * @throws UsageError where there is no such kernel, or it takes another size
 */
export function sizedCases(text: string, storage: Storage): BenchCase[] {
  const [name, size] = text.split(':', 2);
  const kinds = KINDS.filter((kind) => goesBy(kind.name, name));
  if (kinds.length === 0) throw new UsageError(`bench: ${JSON.stringify(name)} has no size`, `these have: ${KINDS.map((kind) => kind.name).join(', ')}`);
  const numbers = size.split('x').map((part) => (/^[1-9]\d{0,8}$/.test(part) ? Number(part) : NaN));
  const [{ form }] = kinds; // those that a name stands for are written alike
  const [least, most] = [form.split('[')[0], form].map((some) => some.split('x').length);
  if (numbers.some(Number.isNaN) || numbers.length < least || numbers.length > most) throw new UsageError(`bench: ${JSON.stringify(text)} is not of the form ${name}:${form}`);
  return kinds.map(({ make }) => make(numbers, storage));
}

function gemm(mode: Mode, [M, N, K]: readonly number[], storage: Storage): BenchCase {
  const matrix = (rows: number, cols: number): Tensor => persistent(rows, cols, undefined, storage);
  return {
    name: `gemm_${mode}`,
    shape: { M, N, K },
    async prepare() {
      const [a, b] = [filled(mode === 'tn' ? matrix(K, M) : matrix(M, K)), filled(mode === 'nt' ? matrix(N, K) : matrix(K, N))];
      const c = matrix(M, N);
      const flops = 2 * M * N * K;
      return programRun(await record(() => matmul(mode, a, b, c)).ready(), [a, b, c], { flops, bytes: bytesOf(storage) * (M * K + N * K + M * N) });
    },
  };
}

function attentionForward(size: readonly number[], storage: Storage): BenchCase {
  return attentionCase('attention_forward', size, storage, 1, async (forward) => record(() => forward(false)).ready());
}

/** The backward pass alone: what a recording of both has more than one of the forward pass. */
function attentionBackward(size: readonly number[], storage: Storage): BenchCase {
  return attentionCase('attention_backward', size, storage, 2.5, async (forward) => {
    const both = await record(() => forward(true)).ready();
    both.run();
    both.commands.splice(0, record(() => forward(false)).commands.length);
    return both;
  });
}

function attentionCase(name: string, [rows, T, heads, headDim, kvHeads = heads]: readonly number[], storage: Storage, cost: number,
  recorded: (forward: (training: boolean) => void) => Promise<Program>): BenchCase {
  const N = rows * T;
  return {
    name,
    shape: { rows, T, heads, headDim, ...(kvHeads === heads ? {} : { kvHeads }) },
    async prepare() {
      if (heads % kvHeads !== 0) throw new UsageError(`bench ${name}: ${heads} heads do not share ${kvHeads} of keys and values evenly`);
      const qkv = filled(persistent(N, (heads + 2 * kvHeads) * headDim, undefined, storage));
      const dO = filled(persistent(N, heads * headDim));
      const list = attentionTiles(Array.from({ length: rows }, (_, r) => ({ first: r * T, length: T })));
      const tiles = persistent(list.length / 4, 4);
      upload(tiles, list);
      const program = await recorded((training) => {
        const tape = new Tape(training, storage);
        const o = attention(tape, qkv, { heads, kvHeads, headDim }, tiles);
        if (!training) return;
        tape.give(o, dO);
        tape.backward();
      });
      // q·k and p·v of a causal row take T²/2 dot products each; the gradient takes five such products.
      const flops = rows * heads * T * T * headDim * 2 * cost;
      return programRun(program, [qkv, dO, tiles], { flops, tokens: N });
    },
  };
}

function crossEntropy([M, C, V]: readonly number[], storage: Storage): BenchCase {
  return {
    name: 'cross_entropy',
    shape: { M, C, V },
    async prepare() {
      const h = filled(persistent(M, C, undefined, storage));
      const w = { name: 'w', value: filled(persistent(V, C, undefined, storage)), grad: persistent(V, C) };
      const [targets, dLogp, stats] = [vector(M), filled(vector(M)), persistent(M, 4)];
      const program = await record(() => {
        const tape = new Tape(true);
        tokenLogprob(tape, h, w, targets, stats, { dLogp });
        tape.backward();
      }).ready();
      // Logits, and their products for the gradients of h and W.
      return programRun(program, [h, w.value, w.grad, targets, dLogp, stats], { flops: 6 * M * C * V, tokens: M });
    },
  };
}

/** Gradient norm, clipping and AdamW over n parameters, and their copy in f16. */
function optimiser([n]: readonly number[], storage: Storage): BenchCase {
  return {
    name: 'adamw',
    shape: { parameters: n },
    async prepare() {
      const [values, gradients, m, v] = [filled(vector(n)), filled(vector(n)), vector(n), vector(n)];
      const [hyper, norm] = [vector(HYPER_LENGTH), vector(4)];
      const half = storage === 'f16' ? [persistent(n, 1, 1, storage)] : [];
      upload(hyper, hyperAt(1, { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0 }));
      const program = await record(() => {
        gradientNorm({ gradients: [gradients], maxNorm: 1, out: norm });
        adamw({ values, gradients, m, v, decayCount: n }, norm, hyper);
        for (const copy of half) narrow(values, copy);
      }).ready();
      // The gradient is read twice; parameters and both moments are read and written.
      return programRun(program, [values, gradients, m, v, hyper, norm, ...half], { bytes: (4 * 8 + 6 * half.length) * n });
    },
  };
}

/** A recorded program as something to time; `tensors` are its own. */
function programRun(program: Program, tensors: Tensor[], counts: Pick<BenchRun, 'tokens' | 'flops' | 'bytes'>): BenchRun {
  const done = vector(1); // nothing writes it: to read it is to wait for what was submitted before
  return {
    ...counts,
    repeatable: true,
    submit: () => program.run(),
    async run(times = 1) {
      for (let i = 0; i < times; i++) program.run();
      await stage(done).read();
    },
    dispose: () => destroy(...tensors, done),
  };
}

const PATTERN = Float32Array.from({ length: 2 ** 16 }, (_, i) => ((i * 2654435761) % 2048) / 2048 - 0.5);

/** Fills a tensor with numbers from −0.5 to 0.5. */
function filled(tensor: Tensor): Tensor {
  const values = new Float32Array(tensor.rows * tensor.cols);
  for (let at = 0; at < values.length; at += PATTERN.length) values.set(PATTERN.subarray(0, Math.min(PATTERN.length, values.length - at)), at);
  upload(tensor, values);
  return tensor;
}
