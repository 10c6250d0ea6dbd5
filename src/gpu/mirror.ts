import { cpuLanes, gpu } from './device.ts';
import { type Panels, panelShape, panelsOf, shapeOf } from './mirror_layout.ts';
import { type MirrorCopy, MirrorTexture, StepTexture } from './mirror_texture.ts';
import { bytesOf, isScratch, type Storage, type Tensor } from './tensor.ts';

/** A tensor as a kernel binds it that reads a storage texture. */
export class Mirror<Texture extends MirrorTexture | StepTexture = MirrorTexture | StepTexture> {
  /** @param first the texel where the tensor begins; in panels, the shift from a column of texels to its panel */
  constructor(readonly texture: Texture, readonly first: number) {}

  get storage(): Storage {
    return this.texture.storage;
  }
}

/** Of buffers that outlive a step; planning on paper has mirrors of its own of buffers that exist. */
const lasting = new WeakMap<GPUBuffer, MirrorCopy<MirrorTexture>[]>();

/**
 * Whether kernels that read the same numbers again and again should read them as textures: a driver that runs shaders on a CPU
 * checks the bounds of each number it loads from a buffer, but of a texture those of each texel.
 */
export const readsTextures = (): boolean => cpuLanes() > 0;

/** A mirror of a whole tensor that kernels write beside it (or `copyToMirror` does); it begins as zeros. */
export const standingMirror = ({ bytes, storage }: Tensor): Mirror<MirrorTexture> => new Mirror(new MirrorTexture(shapeOf(bytes, storage), storage), 0);

/** Tells that a buffer's content has changed, so that its mirrors are copied anew before they are read. */
export function written(buffer: GPUBuffer): void {
  for (const { texture } of lasting.get(buffer) ?? []) texture.stale = true;
}

/** Frees the mirrors of a buffer that is destroyed or goes to another use; steps that read them must not run again. */
export function freeMirror(buffer: GPUBuffer): void {
  for (const { texture } of lasting.get(buffer) ?? []) texture.destroy();
  lasting.delete(buffer);
}

/** Whether a copy holds a tensor's bytes `offset` to `end` in this layout. */
function holds(copy: MirrorCopy, offset: number, end: number, storage: Storage, panels: Panels | undefined): boolean {
  if (copy.texture.storage !== storage) return false;
  if (!panels || !copy.panels) return panels === copy.panels && offset >= copy.start && end <= copy.end;
  return offset === copy.start && panels.rows === copy.panels.rows && panels.columns === copy.panels.columns;
}

/**
 * Copies that a step keeps at once: an operand's next uses follow soon, in the gradients of a product. To keep those of the forward
 * pass for the backward pass would double the activations, and no step was measurably faster for it.
 */
const KEPT = 2;

/** A buffer that is no larger is copied as a whole: all weights of a small model at once. */
const SMALL_BUFFER = 1 << 22;
/** Bytes of a weight in a larger one that a step may copy in passing: each time it reads them, so that no copy has to last. */
const LARGE = 1 << 20;

/**
 * The mirrors of a step that is being recorded. Buffers that the step writes are copied when they are first read as a
 * texture and again after each write; those that it only reads keep mirrors of their own, which are copied when they have
 * changed between steps (weights: once an update).
 */
export class StepMirrors {
  /** Lasting mirrors that the step reads. */
  readonly read = new Set<MirrorCopy<MirrorTexture>>();
  private inStep: MirrorCopy<StepTexture>[] = [];
  /** Whether the step takes so long that large weights may be copied each time they are read: they then need no mirror of their own. */
  passing = false;
  private readonly writes = new Set<GPUBuffer>();

  /** @param add adds a copy to the step */
  constructor(private readonly add: (copy: MirrorCopy<StepTexture>) => void) {}

  /** What to bind for a tensor, texel after texel; its copy is added to the step where it is needed. */
  of(tensor: Tensor): Mirror {
    const { texture, start } = this.copyOf(tensor);
    return new Mirror(texture, (tensor.offset - start) / (4 * bytesOf(tensor.storage)));
  }

  /** What to bind for a matrix in panels. */
  inPanels(tensor: Tensor): Mirror {
    const panels = panelsOf(tensor);
    if (!panels) throw new Error(`[${tensor.rows},${tensor.cols}] with rows ${tensor.stride} apart cannot lie in panels`);
    return new Mirror(this.copyOf(tensor, panels).texture, Math.log2(panels.width));
  }

  /** Whether a copy of a matrix in panels is at hand. */
  hasPanels(tensor: Tensor): boolean {
    const panels = panelsOf(tensor);
    return panels !== undefined && this.atHand(tensor, tensor.offset + tensor.bytes, panels) !== undefined;
  }

  /** The copy of this step that holds a tensor's bytes up to `end`. */
  private atHand({ buffer, offset, storage }: Tensor, end: number, panels: Panels | undefined): MirrorCopy<StepTexture> | undefined {
    return this.inStep.find((copy) => copy.buffer === buffer && holds(copy, offset, end, storage, panels));
  }

  private copyOf(tensor: Tensor, panels?: Panels): MirrorCopy {
    const { buffer, offset, bytes, storage } = tensor;
    const lastingOf = (first: number, last: number) =>
      lasting.get(buffer)?.find((c) => c.texture.device === gpu().device && holds(c, first, last, storage, panels));
    const wholeTexels = offset + bytes - (bytes % (4 * bytesOf(storage)));
    const passes = this.passing && bytes >= LARGE && buffer.size > SMALL_BUFFER && !lastingOf(offset, wholeTexels);
    const lasts = !isScratch(buffer) && !this.writes.has(buffer) && !passes;
    const whole = lasts && !panels && buffer.size <= SMALL_BUFFER;
    const start = whole ? 0 : offset;
    const end = whole ? buffer.size : wholeTexels;
    const shape = panels ? panelShape(panels, storage) : shapeOf(end - start, storage);
    const copyInto = <T extends MirrorTexture | StepTexture>(texture: T): MirrorCopy<T> => ({ kind: 'mirror', texture, buffer, start, end, panels });
    if (lasts) {
      let copy = lastingOf(offset, end);
      if (!copy) lasting.set(buffer, [...lasting.get(buffer) ?? [], (copy = copyInto(new MirrorTexture(shape, storage)))]);
      this.read.add(copy);
      return copy;
    }
    let copy = this.atHand(tensor, end, panels);
    if (!copy) {
      if (this.inStep.length === KEPT) this.inStep.shift();
      this.inStep.push((copy = copyInto(new StepTexture(shape, storage))));
      this.add(copy);
    }
    return copy;
  }

  /** A kernel of the step writes this buffer: what was copied of it is old. */
  overwritten(buffer: GPUBuffer): void {
    if (!isScratch(buffer)) this.writes.add(buffer);
    this.inStep = this.inStep.filter((copy) => copy.buffer !== buffer);
  }

  /** The lasting buffers that the step writes. */
  get changes(): ReadonlySet<GPUBuffer> {
    return this.writes;
  }
}
