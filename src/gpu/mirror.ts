import { gpu, perDevice } from './device.ts';
import { bytesOf, isScratch, type Storage, type Tensor } from './tensor.ts';

const ROW_BYTES = 16384;

/** Texels in a row of a mirror: a buffer lies in its texture as texel after texel, four numbers each. */
export const mirrorWidth = (storage: Storage): number => ROW_BYTES / (4 * bytesOf(storage));

/**
 * Bytes that a texture's rows are longer than what lies in them. A tile of a product reads a column of rows whose distance is often a large power
 * of two, that is from few sets of a CPU's cache; so that they do not drive each other out, each row of the texture begins a set later.
 */
const SKEW_BYTES = 64;
const textureWidth = (storage: Storage): number => mirrorWidth(storage) + SKEW_BYTES / (4 * bytesOf(storage));

/** A tensor as a kernel binds it that reads a storage texture: the texture, and the texel where the tensor begins. */
export class Mirror {
  constructor(readonly texture: MirrorTexture, readonly first: number) {}

  get storage(): Storage {
    return this.texture.storage;
  }
}

/** A texture that holds bytes `start` to `end` of a buffer. */
export class MirrorTexture {
  readonly view: GPUTextureView;
  /** For buffers that outlive a step: whether the buffer was written since the last copy. */
  stale = true;
  readonly device = gpu().device;
  private readonly texture: GPUTexture;

  constructor(readonly rows: number, readonly storage: Storage) {
    const format = storage === 'f16' ? 'rgba16float' : 'rgba32float';
    this.texture = this.device.createTexture({ label: 'mirror', size: [textureWidth(storage), rows], format, usage: 0x8 | 0x2 }); // STORAGE_BINDING | COPY_DST
    this.view = this.texture.createView();
  }

  destroy(): void {
    this.texture.destroy();
  }

  /** Adds the copy of a buffer's bytes to an encoder. */
  copyFrom(encoder: GPUCommandEncoder, buffer: GPUBuffer, start: number, end: number): void {
    const width = mirrorWidth(this.storage);
    const texels = Math.floor((end - start) / (4 * bytesOf(this.storage)));
    const rows = Math.floor(texels / width);
    if (rows > 0) encoder.copyBufferToTexture({ buffer, offset: start, bytesPerRow: ROW_BYTES }, { texture: this.texture }, [width, rows]);
    const rest = texels % width;
    if (rest > 0) {
      encoder.copyBufferToTexture({ buffer, offset: start + rows * ROW_BYTES, bytesPerRow: ROW_BYTES },
        { texture: this.texture, origin: [0, rows] }, [rest, 1]);
    }
  }
}

const rowsFor = (bytes: number): number => {
  const rows = Math.ceil(bytes / ROW_BYTES);
  const step = Math.max(1, 2 ** Math.floor(Math.log2(rows)) / 8);
  return Math.ceil(rows / step) * step;
};

/** Of buffers that outlive a step; planning on paper has mirrors of its own of buffers that exist. */
const lasting = new WeakMap<GPUBuffer, MirrorTexture[]>();
/** Textures that recorded steps share for what they write. */
const shared = perDevice((): MirrorTexture[] => []);

/**
 * Whether kernels that read the same numbers again and again should read them as textures: a driver that runs shaders on a CPU
 * checks the bounds of each number it loads from a buffer, but of a texture those of each texel.
 */
export function readsTextures(): boolean {
  const { software, subgroup } = gpu();
  return software && subgroup === 8;
}

/** A mirror of a whole tensor that kernels write beside it (or `copyToMirror` does); it begins as zeros. */
export const standingMirror = ({ bytes, storage }: Tensor): Mirror => new Mirror(new MirrorTexture(rowsFor(bytes), storage), 0);

function lastingMirror(buffer: GPUBuffer, storage: Storage): MirrorTexture {
  const all = lasting.get(buffer) ?? [];
  const known = all.find(({ device }) => device === gpu().device);
  if (known) return known;
  const made = new MirrorTexture(rowsFor(buffer.size), storage);
  lasting.set(buffer, [...all, made]);
  return made;
}

/** Tells that a buffer's content has changed, so that its mirror is copied anew before it is read. */
export function written(buffer: GPUBuffer): void {
  for (const mirror of lasting.get(buffer) ?? []) mirror.stale = true;
}

/** Frees the mirror of a buffer that is destroyed or goes to another use; steps that read it must not run again. */
export function freeMirror(buffer: GPUBuffer): void {
  for (const mirror of lasting.get(buffer) ?? []) mirror.destroy();
  lasting.delete(buffer);
}

/** A copy to a mirror: made where a step reaches it, or before a step whose buffer was written since. */
export interface MirrorCopy { kind: 'mirror'; texture: MirrorTexture; buffer: GPUBuffer; start: number; end: number }

/**
 * Copies that a step keeps at once: an operand's next uses follow soon, in the gradients of a product. To keep those of the forward
 * pass for the backward pass would double the activations, and no step was measurably faster for it.
 */
const KEPT = 2;

/**
 * The mirrors of a step that is being recorded. Buffers that the step writes are copied when they are first read as a
 * texture and again after each write; those that it only reads keep a mirror of their own, which is copied when they have
 * changed between steps (weights: once an update).
 */
export class StepMirrors {
  /** Lasting mirrors that the step reads. */
  readonly read = new Map<GPUBuffer, MirrorCopy>();
  private readonly inStep = new Map<GPUBuffer, MirrorCopy>();
  private readonly writes = new Set<GPUBuffer>();

  /** @param add adds a copy to the step */
  constructor(private readonly add: (copy: MirrorCopy) => void) {}

  /** What to bind for a tensor; its copy is added to the step where it is needed. */
  of({ buffer, offset, bytes, storage }: Tensor): Mirror {
    const texel = 4 * bytesOf(storage);
    const end = offset + bytes - (bytes % texel);
    if (!isScratch(buffer) && !this.writes.has(buffer)) {
      const texture = lastingMirror(buffer, storage);
      this.read.set(buffer, { kind: 'mirror', texture, buffer, start: 0, end: buffer.size });
      return new Mirror(texture, offset / texel);
    }
    let copy = this.inStep.get(buffer);
    if (!copy || copy.texture.storage !== storage || offset < copy.start || end > copy.end) {
      if (copy) shared().push(copy.texture);
      copy = { kind: 'mirror', texture: take(end - offset, storage), buffer, start: offset, end };
      this.inStep.delete(buffer);
      this.inStep.set(buffer, copy);
      if (this.inStep.size > KEPT) this.drop(this.inStep.keys().next().value!);
      this.add(copy);
    }
    return new Mirror(copy.texture, (offset - copy.start) / texel);
  }

  /** A kernel of the step writes this buffer: what was copied of it is old. */
  overwritten(buffer: GPUBuffer): void {
    if (!isScratch(buffer)) this.writes.add(buffer);
    this.drop(buffer);
  }

  private drop(buffer: GPUBuffer): void {
    const copy = this.inStep.get(buffer);
    if (!copy) return;
    this.inStep.delete(buffer);
    shared().push(copy.texture);
  }

  /** The step is recorded: its textures serve the next one. Returns the lasting buffers that the step writes. */
  end(): ReadonlySet<GPUBuffer> {
    for (const { texture } of this.inStep.values()) shared().push(texture);
    this.inStep.clear();
    return this.writes;
  }
}

function take(bytes: number, storage: Storage): MirrorTexture {
  const rows = rowsFor(bytes);
  const free = shared();
  let best = -1; // the smallest that is large enough: recorded steps of several shapes share them
  free.forEach((t, i) => {
    if (t.storage === storage && t.rows >= rows && t.rows <= Math.max(2 * rows, 4) && (best < 0 || t.rows < free[best].rows)) best = i;
  });
  return best >= 0 ? free.splice(best, 1)[0] : new MirrorTexture(rows, storage);
}
