import { cpuLanes, gpu, perDevice } from './device.ts';
import { inSteps, mirrorWidth, type Panels, panelShape, panelsOf, ROW_BYTES, type Shape, shapeOf, textureWidth } from './mirror_layout.ts';
import { bytesOf, isScratch, type Storage, type Tensor } from './tensor.ts';

/** A tensor as a kernel binds it that reads a storage texture. */
export class Mirror {
  /** @param first the texel where the tensor begins; in panels, the shift from a column of texels to its panel */
  constructor(readonly texture: MirrorTexture, readonly first: number) {}

  get storage(): Storage {
    return this.texture.storage;
  }
}

/** A texture that holds numbers of a buffer. */
export class MirrorTexture {
  readonly view: GPUTextureView;
  /** For buffers that outlive a step: whether the buffer was written since the last copy. */
  stale = true;
  readonly device = gpu().device;
  private readonly texture: GPUTexture;

  constructor(readonly shape: Shape, readonly storage: Storage) {
    const { width, rows, layers } = shape;
    const format = storage === 'f16' ? 'rgba16float' : 'rgba32float';
    this.texture = this.device.createTexture({ label: 'mirror', size: [width, rows, layers ?? 1], format, usage: 0x8 | 0x2 }); // STORAGE_BINDING | COPY_DST
    this.view = this.texture.createView({ dimension: layers === undefined ? '2d' : '2d-array' });
  }

  destroy(): void {
    this.texture.destroy();
  }

  /** Adds the copy of a buffer's bytes to an encoder. */
  copyFrom(encoder: GPUCommandEncoder, { buffer, start, end, panels }: MirrorCopy): void {
    const texture = this.texture;
    const texelBytes = 4 * bytesOf(this.storage);
    if (panels) {
      const { rows, rowBytes, columns, width } = panels;
      for (let first = 0; first < columns; first += width) {
        encoder.copyBufferToTexture({ buffer, offset: start + first * texelBytes, bytesPerRow: rowBytes },
          { texture, origin: [0, 0, first / width] }, [Math.min(width, columns - first), rows]);
      }
      return;
    }
    const width = mirrorWidth(this.storage);
    const texels = Math.floor((end - start) / texelBytes);
    const rows = Math.floor(texels / width);
    if (rows > 0) encoder.copyBufferToTexture({ buffer, offset: start, bytesPerRow: ROW_BYTES }, { texture }, [width, rows]);
    const rest = texels % width;
    if (rest > 0) {
      encoder.copyBufferToTexture({ buffer, offset: start + rows * ROW_BYTES, bytesPerRow: ROW_BYTES }, { texture, origin: [0, rows] }, [rest, 1]);
    }
  }
}

/** Of buffers that outlive a step; planning on paper has mirrors of its own of buffers that exist. */
const lasting = new WeakMap<GPUBuffer, MirrorCopy[]>();
/** Textures that recorded steps share for what they write. */
const shared = perDevice((): MirrorTexture[] => []);

/**
 * Whether kernels that read the same numbers again and again should read them as textures: a driver that runs shaders on a CPU
 * checks the bounds of each number it loads from a buffer, but of a texture those of each texel.
 */
export const readsTextures = (): boolean => cpuLanes() > 0;

/** A mirror of a whole tensor that kernels write beside it (or `copyToMirror` does); it begins as zeros. */
export const standingMirror = ({ bytes, storage }: Tensor): Mirror => new Mirror(new MirrorTexture(shapeOf(bytes, storage), storage), 0);

/** Tells that a buffer's content has changed, so that its mirrors are copied anew before they are read. */
export function written(buffer: GPUBuffer): void {
  for (const { texture } of lasting.get(buffer) ?? []) texture.stale = true;
}

/** Frees the mirrors of a buffer that is destroyed or goes to another use; steps that read them must not run again. */
export function freeMirror(buffer: GPUBuffer): void {
  for (const { texture } of lasting.get(buffer) ?? []) texture.destroy();
  lasting.delete(buffer);
}

/** A copy of a buffer's bytes `start` to `end` to a mirror: made where a step reaches it, or before a step whose buffer was written since. */
export interface MirrorCopy { kind: 'mirror'; texture: MirrorTexture; buffer: GPUBuffer; start: number; end: number; panels?: Panels }

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
  readonly read = new Set<MirrorCopy>();
  private inStep: MirrorCopy[] = [];
  /** Whether the step takes so long that large weights may be copied each time they are read: they then need no mirror of their own. */
  passing = false;
  private readonly writes = new Set<GPUBuffer>();

  /** @param add adds a copy to the step */
  constructor(private readonly add: (copy: MirrorCopy) => void) {}

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

  private copyOf({ buffer, offset, bytes, storage }: Tensor, panels?: Panels): MirrorCopy {
    const lasts = !isScratch(buffer) && !this.writes.has(buffer) && !(this.passing && bytes >= LARGE && buffer.size > SMALL_BUFFER);
    const whole = lasts && !panels && buffer.size <= SMALL_BUFFER;
    const start = whole ? 0 : offset;
    const end = whole ? buffer.size : offset + bytes - (bytes % (4 * bytesOf(storage)));
    const shape = panels ? panelShape(panels, storage) : shapeOf(end - start, storage);
    const copyInto = (texture: MirrorTexture): MirrorCopy => ({ kind: 'mirror', texture, buffer, start, end, panels });
    if (lasts) {
      const all = lasting.get(buffer) ?? [];
      let copy = all.find((c) => c.texture.device === gpu().device && holds(c, offset, end, storage, panels));
      if (!copy) lasting.set(buffer, [...all, (copy = copyInto(new MirrorTexture(shape, storage)))]);
      this.read.add(copy);
      return copy;
    }
    let copy = this.inStep.find((c) => c.buffer === buffer && holds(c, offset, end, storage, panels));
    if (!copy) {
      if (this.inStep.length === KEPT) shared().push(this.inStep.shift()!.texture);
      this.inStep.push((copy = copyInto(take(shape, storage))));
      this.add(copy);
    }
    return copy;
  }

  /** A kernel of the step writes this buffer: what was copied of it is old. */
  overwritten(buffer: GPUBuffer): void {
    if (!isScratch(buffer)) this.writes.add(buffer);
    this.giveBack((copy) => copy.buffer === buffer);
  }

  private giveBack(which: (copy: MirrorCopy) => boolean): void {
    shared().push(...this.inStep.filter(which).map(({ texture }) => texture));
    this.inStep = this.inStep.filter((copy) => !which(copy));
  }

  /** The step is recorded: its textures serve the next one. Returns the lasting buffers that the step writes. */
  end(): ReadonlySet<GPUBuffer> {
    this.giveBack(() => true);
    return this.writes;
  }
}

/** How many times as large as asked for a texture may be that a step takes. */
const LARGER = 2;
const texelsOf = ({ width, rows, layers = 1 }: Shape): number => width * rows * layers;

function take(wanted: Shape, storage: Storage): MirrorTexture {
  const shape = { ...wanted, rows: inSteps(wanted.rows) };
  const most = Math.max(LARGER * texelsOf(shape), 4 * textureWidth(storage));
  const serves = (own: Shape): boolean => (own.layers === undefined) === (shape.layers === undefined) && own.rows >= shape.rows
    && (own.layers ?? 0) >= (shape.layers ?? 0) && own.width >= shape.width && texelsOf(own) <= most
    && (own.width === shape.width || own.layers === 1);
  const free = shared();
  let best = -1; // the smallest that is large enough: recorded steps of several shapes share them
  free.forEach(({ storage: stored, shape: own }, i) => {
    if (stored === storage && serves(own) && (best < 0 || texelsOf(own) < texelsOf(free[best].shape))) best = i;
  });
  return best >= 0 ? free.splice(best, 1)[0] : new MirrorTexture(shape, storage);
}
