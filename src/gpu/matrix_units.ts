/** A product of subgroup matrices, M × K by K × N, that a subgroup of so many lanes does at once. */
export interface MatrixUnits {
  m: number;
  n: number;
  k: number;
  lanes: number;
  /** Subgroups come in several sizes here: the kernel asks for this one. */
  pinned?: boolean;
  /** In tests: loops stand for the operations on subgroup matrices, so that a device without them runs the kernels. */
  emulated?: boolean;
}

/**
 * The largest product of f16 matrices with sums in f32, of sides that divide 32 (the kernel's part of a subgroup), which an adapter
 * with these features and subgroups of `lanes` (0: of no fixed size; the smallest are asked for, if the adapter lets a kernel) offers.
 */
export function matrixUnits(info: GPUAdapterInfo, features: ReadonlySet<string>, lanes: number): MatrixUnits | undefined {
  const pinned = lanes === 0 && features.has('subgroup-size-control');
  const size = pinned ? info.subgroupMinSize ?? 0 : lanes;
  if (size === 0 || !['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix'].every((f) => features.has(f))) return undefined;
  const offered = [...((info as { subgroupMatrixConfigs?: Iterable<MatrixConfig> }).subgroupMatrixConfigs ?? [])];
  const fits = (side: number): boolean => side >= 8 && 32 % side === 0;
  const [best] = offered
    .filter((c) => c.componentType === 'f16' && c.resultComponentType === 'f32' && fits(c.M) && fits(c.N) && fits(c.K))
    .sort((one, other) => other.M * other.N * other.K - one.M * one.N * one.K);
  return best && { m: best.M, n: best.N, k: best.K, lanes: size, ...(pinned ? { pinned } : {}) };
}

/** As Dawn tells it, in an object whose fields are not its own. */
interface MatrixConfig {
  readonly componentType: string;
  readonly resultComponentType: string;
  readonly M: number;
  readonly N: number;
  readonly K: number;
}
