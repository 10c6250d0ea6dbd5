import { cpuLanes } from './device.ts';
import { bytesOf, type Storage, type Tensor } from './tensor.ts';

/** Bytes of a row of a texture where a buffer lies in it texel after texel. */
export const ROW_BYTES = 16384;

/** Texels in a row of a mirror: a buffer lies in its texture as texel after texel, four numbers each. */
export const mirrorWidth = (storage: Storage): number => ROW_BYTES / (4 * bytesOf(storage));

/**
 * Bytes that a texture's rows are longer than what lies in them. A tile of a product reads a column of rows whose distance is often a large power
 * of two, that is from few sets of a CPU's cache; so that they do not drive each other out, each row of the texture begins a set later.
 */
const SKEW_BYTES = 64;
/** Texels in a row of a texture where a buffer lies texel after texel, with those that nothing lies in. */
export const textureWidth = (storage: Storage): number => mirrorWidth(storage) + SKEW_BYTES / (4 * bytesOf(storage));

/** Texels in a row of a texture, its rows, and how many such layers it has, where it is an array of them. */
export interface Shape { width: number; rows: number; layers?: number }

/**
 * How a matrix lies in panels: each layer of the texture holds `width` columns of texels (the last one perhaps fewer), in a row for each row of
 * the matrix. Where a product goes down the matrix' rows it then reads memory from end to end, which a CPU fetches ahead, and from
 * few pages.
 */
export interface Panels { rows: number; rowBytes: number; columns: number; width: number }

/** `count` rounded up to one of eight steps between powers of two. */
export const inSteps = (count: number): number => {
  const step = Math.max(1, 2 ** Math.floor(Math.log2(count)) / 8);
  return Math.ceil(count / step) * step;
};
/** The texture for so many bytes, texel after texel. */
export const shapeOf = (bytes: number, storage: Storage): Shape => ({ width: textureWidth(storage), rows: Math.ceil(bytes / ROW_BYTES) });

/** A panel's columns of texels: as many as a tile of a product has, one a lane (kernels/matmul_broadcast.wgsl). */
const panelWidth = (): number => cpuLanes() || 8;
/** A matrix of fewer rows lies in as few panels as can be: it stays in the cache however it lies, and a panel's copy takes 8 µs beside its bytes. */
const MANY_ROWS = 256;
/** The most columns of texels of a panel. */
const WIDEST = 4096;
/** Layers and rows that every adapter gives a texture. */
const MOST_LAYERS = 256;
const MOST_ROWS = 8192;

/** Shorter rows lie so close together that nothing is gained, and a model of short rows shall not need kernels of both kinds. */
const LONG_ROW = 512;

/** Whether products should read these matrices in panels: they can be laid out so, and all have long rows. */
export const fitPanels = (...matrices: Tensor[]): boolean =>
  matrices.every((matrix) => panelsOf(matrix) !== undefined && matrix.stride * bytesOf(matrix.storage) >= LONG_ROW);

/** How a matrix lies in panels, or undefined where no copy can lay it out: its rows do not begin on multiples of 256 bytes, or are too many. */
export function panelsOf({ rows, stride, storage }: Tensor): Panels | undefined {
  const rowBytes = stride * bytesOf(storage);
  if (rows > MOST_ROWS || rowBytes % 256 > 0) return undefined;
  const columns = stride / 4;
  let width = rows < MANY_ROWS ? WIDEST : panelWidth();
  while (columns > width * MOST_LAYERS) width *= 2;
  return width > WIDEST ? undefined : { rows, rowBytes, columns, width };
}

/** The texture for panels; where their rows are long, each begins a set of the cache later (see SKEW_BYTES). */
export function panelShape({ rows, columns, width }: Panels, storage: Storage): Shape {
  const inPanel = Math.min(columns, width);
  const skew = inPanel > 2 * panelWidth() ? SKEW_BYTES / (4 * bytesOf(storage)) : 0;
  return { width: inPanel + skew, rows, layers: Math.ceil(columns / width) };
}
