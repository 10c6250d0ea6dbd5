import source from '../../../kernels/matmul.wgsl';
import broadcastSource from '../../../kernels/matmul_broadcast.wgsl';
import splitSource from '../../../kernels/matmul_split.wgsl';
import tiledSource from '../../../kernels/matmul_tiled.wgsl';
import { cpuLanes, gpu } from '../device.ts';
import { kernel, type Kernel } from '../kernel.ts';
import { readsTextures, type Mirror } from '../mirror.ts';
import { fitPanels, mirrorWidth } from '../mirror_layout.ts';
import { f32, isMirroredInPanels, launch, mirrorInPanels, mirrorOf } from '../program.ts';
import { spread } from '../tape.ts';
import type { Constants } from '../template.ts';
import { persistent, release, scratch, type Tensor } from '../tensor.ts';
import { columnSum } from './column_sum.ts';
import { splitFor, tileFor } from './matmul_forms.ts';
import { subgroupMatrixForm } from './matmul_subgroup_matrix.ts';

/** Which operand is transposed: `nn` A[M,K]·B[K,N], `nt` A[M,K]·B[N,K]ᵀ, `tn` A[K,M]ᵀ·B[K,N]. */
export type Mode = 'nn' | 'nt' | 'tn';
/** What is done with the product P before it is stored. */
export type Store =
  | { kind: 'plain'; bias?: Tensor }
  | { kind: 'residual'; bias?: Tensor; residual: Tensor }
  /** `columns` [N] += the sums of B's columns (mode tn): the gradient of a bias beside that of its matrix. */
  | { kind: 'add'; scale?: number; columns?: Tensor }
  | { kind: 'gelu'; bias?: Tensor; preactivation: Tensor; act: 'tanh' | 'erf' }
  | { kind: 'gelu_alone'; bias?: Tensor; act: 'tanh' | 'erf' }
  | { kind: 'gelu_grad'; preactivation: Tensor; act: 'tanh' | 'erf' }
  | { kind: 'gelu_more' | 'gelu_grad_more'; preactivation: Tensor; act: 'tanh' | 'erf'; scale?: number };

const HAVE_BIAS: ReadonlySet<Store['kind']> = new Set(['plain', 'residual', 'gelu', 'gelu_alone']);
const zeroOf = new WeakMap<GPUDevice, Tensor>();

/** Stands in where a product has no bias: one vec4 of zeros. */
function noBias(): Tensor {
  const { device } = gpu();
  let zero = zeroOf.get(device);
  if (!zero) zeroOf.set(device, (zero = persistent(1, 4)));
  return zero;
}

/** A form of the product for given shapes, and the results that a workgroup computes. */
export interface Made { kernel: Kernel; tileRows: number; tileCols: number }

function tiled(constants: Constants, mode: Mode, m: number, n: number): Made {
  const { rows, cols, threadRows, threadCols } = tileFor(mode, m, n);
  const all = { ...constants, FORM: 'tiled', TM: rows, TN: cols, RT: threadRows, CT: threadCols, PREFETCH: gpu().registers > 128 };
  return { kernel: kernel('matmul', `${source}\n${tiledSource}`, all), tileRows: rows, tileCols: cols };
}

/** A weight gradient in parts of K, summed in order: C = P or C += scale · P. False where one part is enough. */
function splitMatmul(a: Tensor, b: Tensor, c: Tensor, store: Store, [m, n, k]: [number, number, number]): boolean {
  if (!(store.kind === 'add' || (store.kind === 'plain' && !store.bias))) return false;
  const { parts, chunk } = splitFor('tn', m, n, k);
  if (parts === 1) return false;
  const columns = store.kind === 'add' ? store.columns : undefined;
  const { kernel: made, tileRows, tileCols } = tiled({ MODE: 'tn', STORE: 'part', ACT: '', COLUMNS: columns !== undefined }, 'tn', m, n);
  const rows = columns ? m + 1 : m; // of a part
  const part = scratch(parts * rows, n);
  const ldp = part.stride / 4;
  launch(made, [a, b, part], [m, n, k, a.stride / 4, b.stride / 4, ldp, 0, f32(1), chunk, rows],
    [Math.ceil(n / tileCols), Math.ceil(m / tileRows), parts], 2 * m * n * k);
  const scale = f32((store.kind === 'add' ? store.scale : undefined) ?? 1);
  launch(kernel('matmul_split', splitSource, { ADD: store.kind === 'add', COLUMNS: columns !== undefined }), [part, c, ...(columns ? [columns] : [])],
    [rows * ldp, parts, ldp, c.stride / 4, scale], spread(rows * ldp));
  release(part);
  return true;
}

/** From so many large tiles on the threads of a driver on a CPU share them well. */
const MANY_TILES = 8;

function broadcast(constants: Constants, mode: Mode, [rows, n, k]: readonly number[], widths: { A_WIDTH: number; B_WIDTH: number }): Made {
  const lanes = cpuLanes();
  const tileCols = 4 * lanes;
  // Small tiles for few rows, large ones where there are enough for several threads: each result is still summed over K in the same order.
  const large = lanes === 16 && Math.ceil(rows / 64) * Math.ceil(n / tileCols) >= MANY_TILES;
  const tileRows = mode !== 'tn' && rows <= 8 ? 8 : mode !== 'tn' && rows <= 16 ? 16 : large ? 64 : 32;
  // Two vec4s of K a turn gain 6 % on long sums and nothing on short ones, which would only have more kernels to compile, or in large tiles.
  const exact = mode !== 'nt' || n % 4 === 0;
  const depth = tileRows < 64 && k >= 128 && k % 8 === 0 && exact ? 2 : 1;
  const form = { FORM: 'broadcast', TM: tileRows, ...widths, DEPTH: depth, EXACT: exact && k % (4 * depth) === 0 };
  return { kernel: kernel('matmul', `${source}\n${broadcastSource}`, { ...constants, ...form }), tileRows, tileCols };
}

/**
 * Which operands are read in panels (see mirror_layout.ts): those of weight gradients, which go down the rows of both; they take 15 % less time
 * so. In other products they would gain nothing for a copy of each panel: weights are copied all at once, and A is read in panels
 * where it has been laid out so for its weight's gradient.
 */
function whichInPanels(mode: Mode, a: Tensor, b: Tensor): [boolean, boolean] {
  if (mode !== 'tn') return [isMirroredInPanels(a), false];
  const both = fitPanels(a, b);
  return [both, both];
}

/**
 * C = op(A)·op(B) with a fused store (see kernels/matmul.wgsl). Shapes: C [M,N]; K is taken from A. C's padding columns
 * become zero. Bias is a vector of N; residual and preactivation have C's shape and stride.
 */
export function matmul(mode: Mode, a: Tensor, b: Tensor, c: Tensor, store: Store = { kind: 'plain' }): void {
  const [m, k] = mode === 'tn' ? [a.cols, a.rows] : [a.rows, a.cols];
  const [kb, n] = mode === 'nt' ? [b.cols, b.rows] : [b.rows, b.cols];
  if (kb !== k || c.rows !== m || c.cols !== n) {
    throw new Error(`matmul ${mode}: [${a.rows},${a.cols}] · [${b.rows},${b.cols}] → [${c.rows},${c.cols}]`);
  }
  if (m === 0 || n === 0) return;
  const wanted = 'columns' in store ? store.columns : undefined;
  if (wanted && mode !== 'tn') throw new Error(`matmul ${mode}: sums of columns`);
  const onMatrixUnits = subgroupMatrixForm(mode, store, a, b);
  if (wanted && onMatrixUnits) columnSum(wanted, b, 'plain');
  const columns = onMatrixUnits ? undefined : wanted;
  const mirrored = !onMatrixUnits && readsTextures();
  if (mode === 'tn' && !onMatrixUnits && !mirrored && splitMatmul(a, b, c, store, [m, n, k])) return;
  const constants = { MODE: mode, STORE: store.kind, ACT: 'act' in store ? store.act : '', COLUMNS: columns !== undefined };
  const panels = mirrored ? whichInPanels(mode, a, b) : [];
  const width = ({ storage }: Tensor, i: number): number => (panels[i] ? 0 : mirrorWidth(storage));
  const { kernel: made, tileRows, tileCols } = onMatrixUnits ?? (mirrored
    ? broadcast(constants, mode, [m, n, k], { A_WIDTH: width(a, 0), B_WIDTH: width(b, 1) })
    : tiled(constants, mode, m, n));
  const tensors: (Tensor | Mirror)[] = mirrored ? [a, b].map((t, i) => (panels[i] ? mirrorInPanels : mirrorOf)(t)) : [a, b];
  const bias = 'bias' in store ? store.bias : undefined;
  if (HAVE_BIAS.has(store.kind)) tensors.push(bias ?? noBias());
  if (store.kind === 'residual') tensors.push(store.residual);
  if (store.kind === 'gelu_grad' || store.kind === 'gelu_grad_more') tensors.push(store.preactivation);
  tensors.push(c);
  if (store.kind === 'gelu' || store.kind === 'gelu_more') tensors.push(store.preactivation);
  const scale = f32(('scale' in store ? store.scale : undefined) ?? 1);
  if (columns) tensors.push(columns);
  const starts = tensors.flatMap((t) => ('first' in t ? [t.first] : []));
  launch(made, tensors, [m, n, k, a.stride / 4, b.stride / 4, c.stride / 4, bias ? 1 : 0, scale, ...starts],
    [Math.ceil(n / tileCols), Math.ceil(m / tileRows)], 2 * m * n * k);
}
