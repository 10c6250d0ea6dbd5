import { gelu, geluGrad, matmulOf } from './reference/matmul.ts';
import { gpu, withMatrix } from '../gpu/device.ts';
import { readsTextures } from '../gpu/mirror.ts';
import { matmul, type Mode, type Store } from '../gpu/ops/matmul.ts';
import { type Tile, tilesHere, withTile } from '../gpu/ops/matmul_forms.ts';
import type { Storage, Tensor } from '../gpu/tensor.ts';
import { type Check, close, inBoth, type KernelTest, roundingOf } from './check.ts';
import { column, compute, matrix, numbers } from './on_device.ts';

type Size = readonly [number, number, number];
/** The reference of one number of the result, from the product there. */
type Reference = (product: number, bias: number, other: number) => number;

interface Form {
  what: string;
  mode: Mode;
  /** M, N, K. */
  size: Size;
  /** `other` is a matrix of C's shape. */
  store: (bias: Tensor, other: Tensor) => Store;
  result: Reference;
  /** What the store leaves in its preactivation. */
  preactivation?: Reference;
}

const plain = (mode: Mode, what: string, size: Size, biased = true): Form => ({
  what,
  mode,
  size,
  store: (bias) => ({ kind: 'plain', ...(biased ? { bias } : {}) }),
  result: (p, bias) => (biased ? p + bias : p),
});

/** Several tiles with ragged edges, and the tiles for few rows. */
const WHOLE: Size = [130, 67, 43];
const SCALE = 0.5;
const products = [
  ...(['nn', 'nt', 'tn'] as const).map((mode) => plain(mode, mode, WHOLE)),
  ...([7, 15] as const).flatMap((rows) =>
    (['nn', 'nt'] as const).map((mode) => plain(mode, `${mode}, ${rows} rows`, [rows, 67, 43])),
  ),
];
const added = (mode: Mode): Form => ({
  what: `${mode}, added`,
  mode,
  size: WHOLE,
  store: () => ({ kind: 'add' }),
  result: (p, _, c) => p + c,
});
/** More tokens than a part of a weight gradient takes, of which GPUs sum several. */
const MANY_TOKENS: Size = [67, 43, 1100];
/** In f16, each mode and each store once, parts of K too: the tiles for few rows and the other GELU read and store alike. */
const halfForms = (all: readonly Form[]): Form[] =>
  all.filter(({ what, size }) => (size === WHOLE || size === MANY_TOKENS) && !/erf|nn, added/.test(what));
const stores = (act: 'tanh' | 'erf', mode: Mode): Omit<Form, 'mode' | 'size'>[] => [
  {
    what: `${mode}, ${act} GELU`,
    store: (bias, preactivation) => ({ kind: 'gelu', bias, preactivation, act }),
    result: (p, bias) => gelu(p + bias, act),
    preactivation: (p, bias) => p + bias,
  },
  {
    what: `${mode}, ${act} GELU alone`,
    store: (bias) => ({ kind: 'gelu_alone', bias, act }),
    result: (p, bias) => gelu(p + bias, act),
  },
  {
    what: `${mode}, ${act} GELU of a sum`,
    store: (_, preactivation) => ({ kind: 'gelu_more', preactivation, act, scale: SCALE }),
    result: (p, _, u) => gelu(u + SCALE * p, act),
    preactivation: (p, _, u) => u + SCALE * p,
  },
  {
    what: `${mode}, gradient of ${act} GELU`,
    store: (_, preactivation) => ({ kind: 'gelu_grad', preactivation, act }),
    result: (p, _, u) => p * geluGrad(u, act),
  },
  {
    what: `${mode}, gradient of ${act} GELU of a sum`,
    store: (_, preactivation) => ({ kind: 'gelu_grad_more', preactivation, act, scale: SCALE }),
    result: (p, _, u) => (u + SCALE * p) * geluGrad(u, act), // C begins as a copy of the preactivation
  },
];
const forms: Form[] = [
  ...products,
  added('nn'),
  added('tn'),
  plain('tn', 'tn of many tokens', MANY_TOKENS, false),
  { ...added('tn'), what: 'tn of many tokens, added', size: MANY_TOKENS },
  {
    what: 'bias and residual',
    mode: 'nt',
    size: WHOLE,
    store: (bias, residual) => ({ kind: 'residual', bias, residual }),
    result: (p, bias, residual) => p + bias + residual,
  },
  ...stores('tanh', 'nn').map((form): Form => ({ ...form, mode: 'nn', size: WHOLE })),
  ...stores('erf', 'nt').map((form): Form => ({ ...form, mode: 'nt', size: WHOLE })),
];

/** What is f16 where weights and activations are: A, B, C and the other matrix of each store. Gradients are f32. */
const HALVES: Record<Store['kind'], string> = {
  plain: 'abc',
  residual: 'ab',
  add: 'b',
  gelu: 'abco',
  gelu_alone: 'abc',
  gelu_grad: 'bo',
  gelu_more: 'co',
  gelu_grad_more: 'o',
};

/** `always` names what is stored as `storage` whatever the store: both operands, for the form on matrix units. */
async function check({ what, mode, size: [m, n, k], store, result, preactivation }: Form, storage: Storage, always = ''): Promise<Check[]> {
  const { normals } = numbers(1, storage);
  const [a, b, other, bias] = [normals(m * k), normals(k * n), normals(m * n), normals(Math.ceil(n / 4) * 4)];
  bias.fill(0, n);
  const product = matmulOf(mode, a, b, m, n, k);
  const kind = store(column(bias), column(bias)).kind;
  const storageOf = (part: string): Storage => ((HALVES[kind] + always).includes(part) ? storage : 'f32');
  const A = matrix(a, mode === 'tn' ? m : k, undefined, storageOf('a'));
  const B = matrix(b, mode === 'nt' ? k : n, undefined, storageOf('b'));
  const [C, OTHER] = [matrix(other, n, undefined, storageOf('c')), matrix(other, n, undefined, storageOf('o'))];
  const how = store(column(bias), OTHER);
  const [c, u] = await compute(() => matmul(mode, A, B, C, how), [C, OTHER]);
  const expected = (of: Reference): Float64Array => product.map((p, i) => of(p, bias[i % n], other[i]));
  return [
    close(what, c, expected(result), roundingOf(C.storage)),
    ...(preactivation ? [close(`${what}: preactivation`, u, expected(preactivation), roundingOf(OTHER.storage))] : []),
  ];
}

/** Checks the forms that are in use with this storage; `always` as for `check`. */
export const matmulChecks = async (storage: Storage, always?: string): Promise<Check[]> =>
  (await Promise.all((storage === 'f16' ? halfForms(forms) : forms).map((form) => check(form, storage, always)))).flat();

/** The matrix units' own form where there are any, and its emulation, which shows what is not theirs to be right anywhere. */
async function checkMatrixForm(): Promise<Check[]> {
  const { matrix: own } = gpu();
  const checks = own ? await matmulChecks('f16', 'ab') : [];
  const emulated = { m: 16, n: 16, k: 16, lanes: 32, emulated: true };
  return [...checks, ...(await withMatrix(emulated, () => matmulChecks('f16', 'ab'))).map((c) => ({ ...c, what: `${c.what}, emulated` }))];
}

/**
 * That a row of a product has the same bits in every tile, whatever stores it: PPO compares probabilities from passes of different
 * sizes, and a compiler might contract multiplications and additions in one tile and not in another. A form for software drivers has its
 * tiles by the number of rows alone.
 */
async function checkTiles(): Promise<Check[]> {
  const [n, k] = [68, 75];
  const { normals } = numbers(2);
  const [row, before, beside, bias, b] = [normals(k), normals(n), normals(n), normals(n), normals(n * k)];
  const rows = readsTextures() ? [1, 9, 17].map((m) => ({ m, tile: undefined })) : tilesHere().map((tile) => ({ m: tile.rows + 1, tile }));
  const named = ({ m, tile }: { m: number; tile?: Tile }): string => (tile ? `tile ${tile.rows}×${tile.cols}` : `${m} rows`);
  const checks: Check[] = [];
  for (const mode of ['nn', 'nt'] as const) {
    const [B, BIAS] = [matrix(b, mode === 'nt' ? k : n), column(bias)];
    const stored = (m: number, own: Float32Array): Tensor => matrix(Float32Array.from({ length: m * own.length }, (_, i) => own[i % own.length]), own.length);
    const stores: ((other: Tensor) => Store)[] = mode === 'nn'
      ? [() => ({ kind: 'plain', bias: BIAS }), () => ({ kind: 'add', scale: 0.7 }), (preactivation) => ({ kind: 'gelu', bias: BIAS, preactivation, act: 'tanh' }),
        () => ({ kind: 'gelu_alone', bias: BIAS, act: 'tanh' })]
      : [(residual) => ({ kind: 'residual', bias: BIAS, residual }), (preactivation) => ({ kind: 'gelu_grad', preactivation, act: 'tanh' })];
    const cases = rows.flatMap((size) => stores.map((store) => ({ ...size, store, C: stored(size.m, before), A: stored(size.m, row), other: stored(size.m, beside) })));
    const results = await compute(() => {
      for (const { tile, A, C, other, store } of cases) {
        const launch = (): void => matmul(mode, A, B, C, store(other));
        if (tile) withTile(tile, launch);
        else launch();
      }
    }, cases.map(({ C }) => C));
    const product = matmulOf(mode, row, b, 1, n, k); // equal numbers could all be wrong
    checks.push(close(`${mode}: a row's numbers`, results[0].subarray(0, n), product.map((p, i) => p + bias[i] + (mode === 'nn' ? 0 : beside[i]))));
    cases.forEach((one, i) => {
      const same = results[i % stores.length].subarray(0, n);
      const got = results[i].subarray((one.m - 1) * n, one.m * n);
      checks.push(close(`${mode}, ${one.store(one.other).kind}: a row's last bits depend on its batch: ${named(one)} is not as ${named(rows[0])}`, got, same, 0));
    });
  }
  return checks;
}

export const matmulTests: KernelTest[] = [
  ...inBoth('matmul', ['matmul', 'matmul_broadcast', 'matmul_split', 'matmul_tiled'], (storage) => matmulChecks(storage)),
  { name: 'matmul_tiles', kernels: ['matmul_tiled'], run: checkTiles },
  { name: 'matmul_subgroup_matrix', kernels: ['matmul_subgroup_matrix'], needs: 'shader-f16', run: checkMatrixForm },
];
