import source from '../../../kernels/matmul.wgsl';
import matrixSource from '../../../kernels/matmul_subgroup_matrix.wgsl';
import { gpu } from '../device.ts';
import type { MatrixUnits } from '../matrix_units.ts';
import { kernel } from '../kernel.ts';
import type { Constants } from '../template.ts';
import type { Tensor } from '../tensor.ts';
import type { Made, Mode, Store } from './matmul.ts';

/** Rows and columns of C that a workgroup computes. */
const TILE = 64;

/** The WGSL template, and what it takes for a product on these matrix units. */
export const matrixTemplate = `${source}\n${matrixSource}`;
export const matrixConstants = (mode: Mode, store: Store, { m, n, k, lanes, pinned = false, emulated = false }: MatrixUnits): Constants => ({
  FORM: 'subgroup_matrix', MODE: mode, STORE: store.kind, ACT: 'act' in store ? store.act : '', COLUMNS: false,
  FM: m, FN: n, FK: k, LANES: lanes, PINNED: pinned, EMULATED: emulated,
});

/**
 * The form of a product on the device's matrix units: undefined where it has none or an operand is stored as f32. It hangs on
 * nothing that rows beside a row could change.
 */
export function subgroupMatrixForm(mode: Mode, store: Store, a: Tensor, b: Tensor): Made | undefined {
  const { matrix } = gpu();
  if (!matrix || a.storage !== 'f16' || b.storage !== 'f16') return undefined;
  const made = kernel('matmul', matrixTemplate, matrixConstants(mode, store, matrix));
  return { kernel: made, tileRows: TILE, tileCols: TILE };
}
