import source from '../../../kernels/reduction.wgsl';
import { cpuLanes, gpu } from '../device.ts';
import { kernel, type Kernel } from '../kernel.ts';
import type { Constants } from '../template.ts';

/** How a kernel reduces: `subgroup` lanes a subgroup (0: through workgroup memory), `workgroup` lanes a workgroup. */
export interface Lanes {
  subgroup: number;
  workgroup: number;
  /** Lanes that take a row, in a kernel of rows: a subgroup (without subgroups a workgroup) where it is absent. */
  row?: number;
}

/**
 * Lanes that reduce a row on a CPU. With vectors of 16 lanes two rows share each step: a row's sums have the same order, and bits, whatever
 * vectors the CPU has.
 */
const CPU_ROW = 8;

/**
 * A whole workgroup a row. A software driver runs a workgroup on one CPU core: there one subgroup is all it needs, and
 * no barrier. A GPU wants 256 lanes to hide its latency.
 */
export function wideLanes(): Lanes {
  const { subgroup, software } = gpu();
  if (cpuLanes()) return { subgroup: CPU_ROW, workgroup: CPU_ROW };
  return { subgroup, workgroup: software ? subgroup || 64 : 256 };
}

/** A subgroup a row, several rows in a workgroup of 64; without subgroups, a workgroup of 64 a row. */
export function rowLanes(): Lanes {
  const { subgroup } = gpu();
  if (cpuLanes()) return { subgroup: CPU_ROW, workgroup: 64 };
  return { subgroup: subgroup <= 64 ? subgroup : 0, workgroup: 64 };
}

/** On a CPU: no more rows in a workgroup than share a subgroup. */
export const fewRowsLanes = (): Lanes => ({ subgroup: CPU_ROW, workgroup: cpuLanes() });

/** Lanes that take a row in a kernel of rows. */
export const lanesOfRow = ({ subgroup, workgroup, row }: Lanes): number => row ?? (subgroup || workgroup);

/** `rowLanes` for rows of so many vec4s; on a GPU a whole workgroup a row where a lane would take more than `most` of them. */
export function lanesFor(vec4s: number, most: number): Lanes {
  const lanes = rowLanes();
  if (cpuLanes() || vec4s <= most * lanesOfRow(lanes)) return lanes;
  const wide = wideLanes();
  return { ...wide, row: wide.workgroup };
}

/** For a row a head that is being decoded, few and perhaps long: on a GPU 128 lanes, so that a few rows keep its memory busy. */
export function decodeLanes(): Lanes {
  const { subgroup } = gpu();
  return cpuLanes() ? fewRowsLanes() : { subgroup: subgroup <= 128 ? subgroup : 0, workgroup: 128, row: 128 };
}

/** A kernel whose row is reduced by a whole workgroup (kernels/reduction.wgsl has the functions it may call). */
export function wideKernel(name: string, text: string, lanes: Lanes, constants: Constants = {}): Kernel {
  const { subgroup, workgroup } = lanes;
  return kernel(name, `${source}\n${text}`, { ...constants, SUBGROUP: subgroup, WG: workgroup, LANES: workgroup });
}

/** A kernel whose row is reduced by `lanes.row` lanes; `rows` is how many a workgroup takes. */
export function rowKernel(
  name: string,
  text: string,
  lanes: Lanes,
  constants: Constants = {},
): { made: Kernel; rows: number } {
  const { subgroup, workgroup } = lanes;
  const perRow = lanesOfRow(lanes);
  const made = kernel(name, `${source}\n${text}`, { ...constants, SUBGROUP: subgroup, WG: workgroup, LANES: perRow });
  return { made, rows: workgroup / perRow };
}

/** `n` workgroups as a grid that no dimension's limit forbids; the kernel’s index is w.y · (groups in x) + w.x. */
export function grid(n: number): [number, number] {
  const widest = 32768;
  return [Math.min(n, widest), Math.ceil(n / widest)];
}
