import { adamw, gradientNorm, HYPER_LENGTH, hyperAt } from '../gpu/ops/adamw.ts';
import { attention, attentionTiles } from '../gpu/ops/attention.ts';
import { narrow } from '../gpu/ops/half.ts';
import { matmul, type Mode } from '../gpu/ops/matmul.ts';
import { tokenLogprob } from '../gpu/ops/token_logprob.ts';
import { record, type Program } from '../gpu/program.ts';
import { Tape } from '../gpu/tape.ts';
import { bytesOf, destroy, persistent, stage, upload, vector, type Storage, type Tensor } from '../gpu/tensor.ts';
import type { BenchCase, BenchRun } from './measure.ts';
import { stockCases } from './tfjs.ts';

/** Single kernels, weights and activations stored as `storage` says; with `large` also sizes that keep a GPU busy. */
export function kernelCases(large: boolean, storage: Storage): BenchCase[] {
  const gemms = large ? [...GEMMS, ...LARGE_GEMMS] : GEMMS;
  const attentions = large ? [...ATTENTIONS, ...LARGE_ATTENTIONS] : ATTENTIONS;
  return [
    ...MODES.flatMap((mode) => gemms.map((size) => gemm(mode, size, storage))),
    ...attentions.map((size) => attentionForward(size, storage)),
    ...attentions.map((size) => attentionBackward(size, storage)),
    crossEntropy(2048, 128, 1024, storage),
    ...(large ? [crossEntropy(8192, 768, 50257, storage)] : []),
    optimiser(2 ** 20, storage),
    ...(large ? [optimiser(2 ** 27, storage)] : []),
    ...stockCases(MODES, gemms),
  ];
}

const MODES: Mode[] = ['nn', 'nt', 'tn'];
const GEMMS = [[2048, 512, 128], [4096, 512, 512], [512, 64, 64], [512, 1024, 64], [1000, 43, 172], [64, 384, 128]] as const;
const LARGE_GEMMS = [[4096, 4096, 4096], [8192, 3072, 768], [8192, 768, 3072]] as const;
const ATTENTIONS = [[16, 128, 4, 32], [32, 64, 4, 32]] as const;
const LARGE_ATTENTIONS = [[8, 1024, 12, 64], [2, 4096, 12, 64]] as const;

function gemm(mode: Mode, [M, N, K]: readonly [number, number, number], storage: Storage): BenchCase {
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

type AttentionSize = readonly [rows: number, T: number, heads: number, headDim: number];

const attentionForward = (size: AttentionSize, storage: Storage): BenchCase => attentionCase('attention_forward', size, storage, 1, async (forward) => record(() => forward(false)).ready());

/** The backward pass alone: what a recording of both has more than one of the forward pass. */
const attentionBackward = (size: AttentionSize, storage: Storage): BenchCase => attentionCase('attention_backward', size, storage, 2.5, async (forward) => {
  const both = await record(() => forward(true)).ready();
  both.run();
  both.commands.splice(0, record(() => forward(false)).commands.length);
  return both;
});

function attentionCase(name: string, [rows, T, heads, headDim]: AttentionSize, storage: Storage, cost: number,
  recorded: (forward: (training: boolean) => void) => Promise<Program>): BenchCase {
  const N = rows * T;
  return {
    name,
    shape: { rows, T, heads, headDim },
    async prepare() {
      const qkv = filled(persistent(N, 3 * heads * headDim, undefined, storage));
      const dO = filled(persistent(N, heads * headDim));
      const list = attentionTiles(Array.from({ length: rows }, (_, r) => ({ first: r * T, length: T })));
      const tiles = persistent(list.length / 4, 4);
      upload(tiles, list);
      const program = await recorded((training) => {
        const tape = new Tape(training, storage);
        const o = attention(tape, qkv, { heads, kvHeads: heads, headDim }, tiles);
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

function crossEntropy(M: number, C: number, V: number, storage: Storage): BenchCase {
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
function optimiser(n: number, storage: Storage): BenchCase {
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
