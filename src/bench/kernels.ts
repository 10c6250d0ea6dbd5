import { adamw, gradientNorm, HYPER_LENGTH, hyperAt } from '../gpu/ops/adamw.ts';
import { attention, attentionTiles } from '../gpu/ops/attention.ts';
import { matmul, type Mode } from '../gpu/ops/matmul.ts';
import { tokenLogprob } from '../gpu/ops/token_logprob.ts';
import { record, type Program } from '../gpu/program.ts';
import { Tape } from '../gpu/tape.ts';
import { persistent, scratch, stage, upload, vector, type Tensor } from '../gpu/tensor.ts';
import type { BenchCase, BenchRun } from '../stages/bench.ts';

/** Waits for everything submitted, by reading one number back. */
export async function finished(tensor: Tensor): Promise<void> {
  await stage(tensor.rows > 1 && (tensor.stride * 4) % 256 === 0 ? tensor.rowRange(0, 1) : tensor).read();
}

/** A recorded program as something to time: `repeat` runs of it for each wait. */
export function programRun(program: Program, wait: Tensor, repeat: number, more: Omit<BenchRun, 'run' | 'repeat' | 'submit'>): BenchRun {
  const submit = (): void => {
    for (let i = 0; i < repeat; i++) program.run();
  };
  return {
    ...more,
    repeat,
    dispatches: program.dispatches,
    submit: () => program.run(),
    async run() {
      submit();
      await finished(wait);
    },
  };
}

const filled = (tensor: Tensor): Tensor => {
  upload(tensor, Float32Array.from({ length: tensor.rows * tensor.cols }, (_, i) => ((i * 2654435761) % 2048) / 2048 - 0.5));
  return tensor;
};

const GEMMS: [number, number, number][] = [[2048, 512, 128], [4096, 512, 512], [512, 64, 64], [512, 1024, 64], [1000, 43, 172], [64, 384, 128]];

/** Benchmarks of single kernels. */
export function kernelCases(): BenchCase[] {
  const cases: BenchCase[] = [];
  for (const mode of ['nn', 'nt', 'tn'] as Mode[]) for (const [M, N, K] of GEMMS) cases.push(gemm(mode, M, N, K));
  return [...cases, attentionCase(false), attentionCase(true), crossEntropy(), optimiser()];
}

function gemm(mode: Mode, M: number, N: number, K: number): BenchCase {
  return {
    name: `gemm_${mode}`,
    shape: { M, N, K },
    async prepare() {
      const a = filled(mode === 'tn' ? persistent(K, M) : persistent(M, K));
      const b = filled(mode === 'nt' ? persistent(N, K) : persistent(K, N));
      const c = persistent(M, N);
      const program = await record(() => matmul(mode, a, b, c)).ready();
      const flops = 2 * M * N * K;
      const repeat = Math.max(1, Math.min(200, Math.round(4e9 / flops)));
      return programRun(program, vector(1), repeat, { flops, bytes: 4 * (M * K + N * K + M * N) });
    },
  };
}

function attentionCase(backward: boolean): BenchCase {
  const [rows, T, heads, headDim] = [16, 128, 4, 32];
  const N = rows * T;
  return {
    name: backward ? 'attention_backward' : 'attention_forward',
    shape: { rows, T, heads, headDim },
    async prepare() {
      const qkv = filled(persistent(N, 3 * heads * headDim));
      const spans = Array.from({ length: rows }, (_, r) => ({ first: r * T, length: T }));
      const list = attentionTiles(spans, headDim);
      const tiles = persistent(list.length / 4, 4);
      upload(tiles, list);
      const program = await record(() => {
        const tape = new Tape(backward);
        const o = attention(tape, qkv, { heads, kvHeads: heads, headDim }, tiles);
        if (!backward) return;
        tape.give(o, scratch(N, heads * headDim));
        tape.backward();
      }).ready();
      // Products of a causal row: q·k and p·v forward (T²/2 each), five more backward, which includes a forward pass here.
      const flops = rows * heads * T * T * headDim * 2 * (backward ? 3.5 : 1);
      return programRun(program, vector(1), 10, { flops, tokens: N });
    },
  };
}

function crossEntropy(): BenchCase {
  const [M, C, V] = [2048, 128, 1024];
  return {
    name: 'cross_entropy',
    shape: { M, C, V },
    async prepare() {
      const h = filled(persistent(M, C));
      const w = { name: 'w', value: filled(persistent(V, C)), grad: persistent(V, C) };
      const [targets, dLogp, stats] = [vector(M), filled(vector(M)), persistent(M, 4)];
      const program = await record(() => {
        const tape = new Tape(true);
        tokenLogprob(tape, h, w, targets, stats, { dLogp });
        tape.backward();
      }).ready();
      return programRun(program, vector(1), 4, { flops: 6 * M * C * V, tokens: M });
    },
  };
}

function optimiser(): BenchCase {
  const n = 1 << 20;
  return {
    name: 'adamw',
    shape: { parameters: n },
    async prepare() {
      const [values, gradients, m, v] = [filled(vector(n)), filled(vector(n)), vector(n), vector(n)];
      const [hyper, norm] = [vector(HYPER_LENGTH), vector(4)];
      upload(hyper, hyperAt(1, { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0 }));
      const program = await record(() => {
        gradientNorm({ gradients: [gradients], maxNorm: 1, out: norm });
        adamw({ values, gradients, m, v, decayCount: n }, norm, hyper);
      }).ready();
      return programRun(program, norm, 4, { bytes: 4 * 8 * n });
    },
  };
}
