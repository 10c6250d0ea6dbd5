import { gpu } from '../device.ts';
import type { Mode } from './matmul.ts';

/** A tile of kernels/matmul_tiled.wgsl: results a workgroup, and rows × vec4s of columns a thread. */
export interface Tile {
  rows: number;
  cols: number;
  threadRows: 4 | 8;
  threadCols: 1 | 2;
}

const tile = (rows: number, cols: number, threadRows: 4 | 8, threadCols: 1 | 2): Tile => ({ rows, cols, threadRows, threadCols });
const FEW = tile(16, 64, 4, 1);
const SOME = tile(32, 64, 4, 1);
const SMALL = tile(64, 64, 8, 1);
const LONG = tile(128, 64, 8, 1);
const LARGE = tile(128, 128, 8, 2);

/** All tiles, the smallest first. */
export const TILES: readonly Tile[] = [FEW, SOME, SMALL, LONG, LARGE];

/** Workgroups that keep a large GPU busy: about two for each of its 128 or so cores. */
export const FILL = 256;

let forced: Tile | undefined;

/** Runs `work` with every tiled product in this tile, so that small shapes can test each of them. */
export function withTile(only: Tile, work: () => void): void {
  forced = only;
  try {
    work();
  } finally {
    forced = undefined;
  }
}

/** Bytes of workgroup memory that a tile takes: 16 steps of K of its rows and columns, and a vec4 beside each against bank conflicts. */
const workgroupBytes = ({ rows, cols }: Tile): number => 16 * 16 * (rows / 4 + 1 + cols / 4 + 1);

const fits = (one: Tile): boolean => workgroupBytes(one) <= gpu().adapter.limits.maxComputeWorkgroupStorageSize;

/** The tiles that the open device has workgroup memory for. */
export const tilesHere = (): readonly Tile[] => TILES.filter(fits);

const groups = (m: number, n: number, { rows, cols }: Tile): number => Math.ceil(m / rows) * Math.ceil(n / cols);

/**
 * The tile of a product of M × N results: the largest of which there are enough to fill a GPU (of the small ones, which few rows get, half as
 * many); where K may be split none below 64×64. Every tile gives a result by the same chain of multiply-adds, so a row's bits do
 * not depend on this choice.
 */
export function tileFor(mode: Mode, m: number, n: number): Tile {
  if (forced) return forced;
  if (m <= 16) return FEW;
  if (m <= 64) return SOME;
  const large = (gpu().registers > 64 ? [LARGE, LONG] : [LONG]).find((t) => groups(m, n, t) >= FILL && fits(t));
  if (large || mode === 'tn') return large ?? SMALL;
  return [SMALL, SOME].find((t) => groups(m, n, t) >= FILL / 2) ?? FEW;
}

/** The least steps of K that are worth a part of their own. */
const LEAST_CHUNK = 512;
/** The most bytes of scratch that parts may take. */
const MOST_SCRATCH = 64 * 2 ** 20;

/**
 * How K of a weight gradient (mode tn: K is the number of tokens) is split: `parts` of `chunk` steps. 1 part where the tiles
 * alone fill a GPU, and in the other modes, where a row must not depend on its batch. Depends on shapes alone.
 */
export function splitFor(mode: Mode, m: number, n: number, k: number): { parts: number; chunk: number } {
  const whole = { parts: 1, chunk: k };
  if (mode !== 'tn') return whole;
  const bytes = m * Math.ceil(n / 4) * 16;
  const most = Math.min(Math.ceil(FILL / groups(m, n, tileFor(mode, m, n))), Math.floor(k / LEAST_CHUNK),
    Math.floor(Math.min(MOST_SCRATCH, gpu().maxBinding) / bytes));
  if (most < 2) return whole;
  const chunk = Math.ceil(k / most / 16) * 16;
  return { parts: Math.ceil(k / chunk), chunk };
}
