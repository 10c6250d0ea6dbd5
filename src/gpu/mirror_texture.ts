import { untilSettled } from './arena.ts';
import { isOpen } from './backend.ts';
import { gpu, perDevice } from './device.ts';
import { inSteps, mirrorWidth, type Panels, ROW_BYTES, type Shape } from './mirror_layout.ts';
import { bytesOf, type Storage } from './tensor.ts';

/** A copy of a buffer's bytes `start` to `end` to a mirror: made where a step reaches it, or before a step whose buffer was written since. */
export interface MirrorCopy<Texture = MirrorTexture | StepTexture> {
  kind: 'mirror';
  texture: Texture;
  buffer: GPUBuffer;
  start: number;
  end: number;
  panels?: Panels;
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
    // STORAGE_BINDING, COPY_DST and, though nothing is drawn, RENDER_ATTACHMENT: without it Dawn clears a texture that no copy fills
    // (see SKEW_BYTES) from a buffer of zeros as large as the texture, which it keeps until the next wait.
    this.texture = this.device.createTexture({ label: 'mirror', size: [width, rows, layers ?? 1], format, usage: 0x8 | 0x2 | 0x10 });
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

/** What a recorded step needs a texture for, from a copy to the last kernel that reads it. Which one that is, is planned when the step has been recorded. */
export class StepTexture {
  /** The commands that copy to it and that read it last. */
  first = Infinity;
  last = -1;
  place?: Place;

  constructor(readonly shape: Shape, readonly storage: Storage) {}

  /** The one planned for it. */
  get texture(): MirrorTexture {
    if (!this.place?.texture) throw new Error('a mirror whose step is not recorded yet');
    return this.place.texture;
  }

  get view(): GPUTextureView {
    return this.texture.view;
  }
}

/** A texture as it is planned: how large, and what of a step lies in it when. */
export interface Place { shape: Shape; storage: Storage; texture?: MirrorTexture; taken: StepTexture[] }
export type PlaceShape = Pick<Place, 'shape' | 'storage'>;

const bytesIn = ({ shape: { width, rows, layers = 1 }, storage }: PlaceShape): number => width * rows * layers * 4 * bytesOf(storage);
const total = (places: readonly Place[]): number => places.reduce((sum, place) => sum + bytesIn(place), 0);

/**
 * The textures of what recorded steps copy in passing. Steps run one after the other, so all share them; within a step a texture holds one
 * mirror after another. Which holds which is planned when a step has been recorded, the largest mirror first.
 */
export class StepTextures {
  private places: Place[] = [];
  /** On paper: the steps so far, each as its mirrors, the largest first. */
  private readonly steps: StepTexture[][] = [];
  private settled = 0;
  private there: readonly PlaceShape[] = [];

  /** @param onPaper whether no texture is made, and those that are planned grow with each step */
  constructor(private readonly onPaper: boolean) {}

  /** The textures' shapes; on paper, those in which all steps recorded so far find room. */
  get shapes(): readonly PlaceShape[] {
    if (this.onPaper && this.settled < this.steps.length) {
      this.places = this.there.map(({ shape, storage }) => ({ shape, storage, taken: [] }));
      untilSettled(() => {
        for (const mirrors of this.steps) this.fit(mirrors);
        return total(this.places);
      });
      this.settled = this.steps.length;
    }
    return this.places.map(({ shape, storage }) => ({ shape, storage }));
  }

  get bytes(): number {
    return this.shapes.reduce((sum, shape) => sum + bytesIn(shape), 0);
  }

  /** Finds textures for a step's mirrors. */
  plan(mirrors: StepTexture[]): void {
    mirrors.sort((a, b) => bytesIn(b) - bytesIn(a) || a.first - b.first);
    if (this.onPaper) this.steps.push(mirrors);
    else this.fit(mirrors);
  }

  /** Makes textures of these shapes, but for those that are there, before the steps come that they were planned for. */
  reserve(shapes: readonly PlaceShape[]): void {
    for (const { shape, storage } of shapes.slice(this.places.length)) this.open(shape, storage);
  }

  /** On paper: plans with textures that are there already, and do not grow. */
  beside(shapes: readonly PlaceShape[]): void {
    this.there = shapes;
  }

  private open(shape: Shape, storage: Storage): Place {
    const place = { shape, storage, taken: [], texture: this.onPaper ? undefined : new MirrorTexture(shape, storage) };
    this.places.push(place);
    return place;
  }

  private fit(mirrors: readonly StepTexture[]): void {
    for (const place of this.places) place.taken = [];
    for (const mirror of mirrors) {
      let best: { place: Place; growth: number; shape: Shape } | undefined;
      for (const place of this.places) {
        if (place.storage !== mirror.storage || place.taken.some(({ first, last }) => first <= mirror.last && last >= mirror.first)) continue;
        const shape = joined(place.shape, mirror.shape);
        if (!shape) continue;
        const growth = bytesIn({ ...place, shape }) - bytesIn(place);
        if (growth > 0 && (!this.onPaper || this.places.indexOf(place) < this.there.length)) continue;
        if (!best || growth < best.growth || growth === best.growth && bytesIn(place) < bytesIn(best.place)) best = { place, growth, shape };
      }
      if (!best || best.growth >= bytesIn(mirror)) {
        // Not planned before, on the device: others a little larger may follow.
        const shape = this.onPaper ? mirror.shape : { ...mirror.shape, rows: inSteps(mirror.shape.rows) };
        best = { place: this.open(shape, mirror.storage), growth: 0, shape };
      }
      best.place.shape = best.shape;
      best.place.taken.push(mirror);
      mirror.place = best.place;
    }
  }
}

/** The least texture that either fits, if there is one: rows of a texture without layers lie one behind another, and so must be equally long. */
function joined(a: Shape, b: Shape): Shape | undefined {
  if ((a.layers === undefined) !== (b.layers === undefined)) return undefined;
  const rows = Math.max(a.rows, b.rows);
  if (a.layers === undefined || b.layers === undefined) return a.width === b.width ? { width: a.width, rows } : undefined;
  return { width: Math.max(a.width, b.width), rows, layers: Math.max(a.layers, b.layers) };
}

/** The textures of the steps of the open device. */
export const stepTextures = perDevice(() => new StepTextures(!isOpen(gpu().device)));
