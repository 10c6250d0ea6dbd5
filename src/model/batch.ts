import { attentionTiles, type Span } from '../gpu/ops/attention.ts';
import { attentionTile } from '../gpu/ops/attention_forms.ts';
import { occurrencesOf } from '../gpu/ops/embedding.ts';
import { NONE } from '../gpu/ops/gather.ts';
import { destroy, persistent, Tensor, upload } from '../gpu/tensor.ts';
import type { ModelConfig } from './config.ts';
import type { PackedTokens } from './decoder.ts';

/** One row of tokens and the places in it whose hidden states are wanted. */
export interface PackRow {
  ids: ArrayLike<number>;
  /** Parts of the row in which attention and positions restart, as [start, length]; the whole row where missing. */
  segments?: readonly (readonly [number, number])[];
  /** Places picked: the hidden state at `at[i]`. */
  at: ArrayLike<number>;
  /** The token whose probability is asked for at each pick: the one after it, usually. Missing: 0. */
  targets?: ArrayLike<number>;
  /** A weight for each pick (two kinds, so that two means come from one batch). Missing: 0. */
  weights?: ArrayLike<number>;
  weights2?: ArrayLike<number>;
  /** Number of the row in its data set: with the position it names a token for dropout. */
  key?: number;
  /**
   * Rows that go on from this one, behind it in the batch (see shared_beginnings.ts): `ids` are those that all of them begin with, nothing is picked.
   * Of a row that goes on, `ids` and `at` are those behind its beginning.
   */
  begins?: number;
}

/** The sizes that a recorded step is made for: tokens N, picks M, rows R (all rounded up). */
export interface BatchShape {
  tokens: number;
  picks: number;
  rows: number;
}

/** What tells recorded shapes apart. */
export const shapeKey = ({ tokens, picks, rows }: BatchShape): string => `${tokens}/${picks}/${rows}`;

/** A batch on the host. Padding: rows of token 0 at the end that nothing is picked from, picks without weight. */
export interface PackedBatch {
  shape: BatchShape;
  /** Real tokens and picks. */
  tokens: number;
  picks: number;
  ids: Uint32Array;
  positions: Uint32Array;
  tiles: Uint32Array;
  index: Uint32Array;
  inverse: Uint32Array;
  targets: Uint32Array;
  /** [M,2] */
  weights: Float32Array;
  /** [N,2] row number and position of each token. */
  keys: Uint32Array;
  /** First pick of each row from which something may be picked. */
  firstPick: number[];
}

/** Rounds up so that few different sizes occur and little is padded. */
export function bucket(n: number): number {
  const step = n <= 256 ? 32 : n <= 1024 ? 64 : n <= 8192 ? 128 : 512;
  return Math.max(step, Math.ceil(n / step) * step);
}

const PAD_ROW = 64;

/** The shape that rows make up together. */
export function shapeOf(rows: readonly PackRow[]): BatchShape {
  const sum = (count: (row: PackRow) => number): number => rows.reduce((total, row) => total + count(row), 0);
  return {
    tokens: bucket(sum((r) => r.ids.length)),
    picks: bucket(sum((r) => r.at.length)),
    rows: Math.ceil((sum((r) => r.segments?.length ?? 1) + 8) / 16) * 16,
  };
}

/** Puts rows one after the other. `shape` asks for sizes at least as large as those of another batch. */
export function packRows(rows: readonly PackRow[], config: ModelConfig, atLeast?: BatchShape): PackedBatch {
  const tokens = rows.reduce((sum, r) => sum + r.ids.length, 0);
  const picks = rows.reduce((sum, r) => sum + r.at.length, 0);
  const own = shapeOf(rows);
  const shape: BatchShape = {
    tokens: Math.max(own.tokens, atLeast?.tokens ?? 0),
    picks: Math.max(own.picks, atLeast?.picks ?? 0),
    rows: Math.max(own.rows, atLeast?.rows ?? 0),
  };
  const ids = new Uint32Array(shape.tokens);
  const positions = new Uint32Array(shape.tokens);
  const index = new Uint32Array(shape.picks).fill(NONE);
  const inverse = new Uint32Array(shape.tokens).fill(NONE);
  const keys = new Uint32Array(shape.tokens * 2);
  const targets = new Uint32Array(shape.picks);
  const weights = new Float32Array(shape.picks * 2);
  const spans: Span[] = [];
  let beginning: { span: Span; first: number; tokens: number; left: number } | undefined;
  const firstPick: number[] = [];
  let n = 0;
  let m = 0;
  for (const row of rows) {
    const { at, key = 0 } = row;
    const goesOn = beginning && beginning.left-- > 0 ? beginning : undefined;
    const before = goesOn?.tokens ?? 0;
    ids.set(row.ids, n);
    for (let i = 0, k = 2 * n; i < row.ids.length; i++, k += 2) {
      keys[k] = key;
      keys[k + 1] = before + i;
    }
    for (const [start, length] of row.segments ?? [[0, row.ids.length]]) {
      if (length === 0) continue;
      if (before + length > config.context) throw new Error(`a row of ${before + length} tokens for a context of ${config.context}`);
      const span: Span = { first: n + start - before, length: before + length };
      if (goesOn) {
        span.shared = { tokens: before, above: span.first - goesOn.first };
        goesOn.span.followers! += length;
      }
      spans.push(span);
      countUp(positions, n + start, length, before);
    }
    if (row.begins) beginning = { span: Object.assign(spans.at(-1)!, { followers: 0 }), first: n, tokens: row.ids.length, left: row.begins };
    else firstPick.push(m);
    for (let i = 0; i < at.length; i++) {
      const token = n + at[i];
      index[m + i] = token;
      inverse[token] = m + i;
    }
    if (row.targets) targets.set(row.targets, m);
    if (row.weights) everySecond(weights, 2 * m, row.weights);
    if (row.weights2) everySecond(weights, 2 * m + 1, row.weights2);
    m += at.length;
    n += row.ids.length;
  }
  const padLength = Math.min(PAD_ROW, config.context);
  for (let at = n; at < shape.tokens; at += padLength) {
    const length = Math.min(padLength, shape.tokens - at);
    spans.push({ first: at, length });
    countUp(positions, at, length);
  }
  return { shape, tokens, picks, ids, positions, tiles: attentionTiles(spans), index, inverse, targets, weights, keys, firstPick };
}

/** Writes `from`, `from` + 1, … from `first` on. */
function countUp(into: Uint32Array, first: number, length: number, from = 0): void {
  for (let i = 0; i < length; i++) into[first + i] = from + i;
}

/** Writes values to every second place from `first` on. */
function everySecond(into: Float32Array, first: number, values: ArrayLike<number>): void {
  for (let i = 0; i < values.length; i++) into[first + 2 * i] = values[i];
}

/** The device tensors that a batch of one shape is uploaded to. */
export class BatchTensors {
  readonly tokens: PackedTokens;
  readonly index: Tensor;
  readonly inverse: Tensor;
  readonly targets: Tensor;
  /** [M,2] weights of the picks. */
  readonly weights: Tensor;
  /** [N,2] what names a token for dropout. */
  readonly keys: Tensor;
  private readonly tileCount: number;
  /** All of them, one behind another in one buffer, so that a batch is one upload; and the host's copy. */
  private readonly all: Tensor;
  private readonly words: Uint32Array;

  /**
   * @param within tensors for batches at least as large, whose memory these share: batches run one after the other, and each is
   *   uploaded right before it runs
   */
  constructor(readonly shape: BatchShape, config: ModelConfig, private readonly training: boolean, private readonly within?: BatchTensors) {
    const { tokens, picks, rows } = shape;
    const tile = attentionTile();
    // A row adds at most one unfilled tile; a row of padding does so only where its length is no multiple of a tile.
    const padLength = Math.min(PAD_ROW, config.context);
    const unfilled = padLength % tile === 0 ? 1 : Math.ceil(tokens / padLength);
    this.tileCount = Math.ceil(tokens / tile) + rows + unfilled;
    const learned = training && config.positions === 'learned';
    const sizes = {
      ids: [tokens, 1],
      positions: [tokens, 1],
      tiles: [this.tileCount, 4],
      index: [picks, 1],
      inverse: [tokens, 1],
      targets: [picks, 1],
      weights: [picks, 2],
      keys: [tokens, 2],
      idRuns: [training ? Math.min(tokens, config.vocabSize) : 0, 4],
      idOrder: [training ? tokens : 0, 1],
      positionRuns: [learned ? Math.min(tokens, config.context) : 0, 4],
      positionOrder: [learned ? tokens : 0, 1],
    } satisfies Record<string, Size>;
    type Name = keyof typeof sizes;
    const { starts, end } = oneBehindAnother<Name>(sizes);
    this.all = within ? within.all.rowRange(0, end) : persistent(end, 1, 1);
    this.words = within ? within.words.subarray(0, end) : new Uint32Array(end);
    const part = (name: Name): Tensor => {
      const [rows, cols] = sizes[name];
      return new Tensor(this.all.buffer, rows, cols, cols, 4 * starts[name]);
    };
    this.tokens = {
      ids: part('ids'),
      positions: part('positions'),
      tiles: part('tiles'),
      idRuns: training ? { runs: part('idRuns'), order: part('idOrder') } : undefined,
      positionRuns: learned ? { runs: part('positionRuns'), order: part('positionOrder') } : undefined,
    };
    this.index = part('index');
    this.inverse = part('inverse');
    this.targets = part('targets');
    this.weights = part('weights');
    this.keys = part('keys');
  }

  /** Whether tensors for batches of a shape may lie within these. */
  covers({ tokens, picks, rows }: BatchShape): boolean {
    return tokens <= this.shape.tokens && picks <= this.shape.picks && rows <= this.shape.rows;
  }

  /** Frees the device's memory, unless it is shared. */
  dispose(): void {
    if (!this.within) destroy(this.all);
  }

  /** Uploads a batch of this shape, ordered before the next program that runs. */
  upload(batch: PackedBatch): void {
    const { tokens, words } = this;
    if (batch.tiles.length > this.tileCount * 4) throw new Error(`${batch.tiles.length / 4} attention tiles for ${this.tileCount}`);
    words.fill(0);
    const put = ({ rows, cols, offset }: Tensor, values: Uint32Array | Float32Array): void => {
      if (values.length > rows * cols) throw new Error(`${values.length} values for ${rows} × ${cols}`);
      words.set(new Uint32Array(values.buffer, values.byteOffset, values.length), offset / 4);
    };
    put(tokens.ids, batch.ids);
    put(tokens.positions, batch.positions);
    put(tokens.tiles, batch.tiles);
    put(this.index, batch.index);
    put(this.targets, batch.targets);
    put(this.weights, batch.weights);
    if (this.training) {
      put(this.inverse, batch.inverse);
      put(this.keys, batch.keys);
      for (const [occurrences, keys] of [[tokens.idRuns, batch.ids], [tokens.positionRuns, batch.positions]] as const) {
        if (!occurrences) continue;
        const { runs, order } = occurrencesOf(keys, batch.tokens, occurrences.runs.rows);
        put(occurrences.runs, runs);
        put(occurrences.order, order);
      }
    }
    upload(this.all, words);
  }
}

/** Rows and columns of a tensor. */
type Size = [rows: number, cols: number];

/** Words at which tensors of these sizes begin that lie one behind another, each on a binding boundary, and where the last one ends. */
function oneBehindAnother<Name extends string>(sizes: Record<Name, Size>): { starts: Record<Name, number>; end: number } {
  const starts = {} as Record<Name, number>;
  let end = 0;
  for (const [name, [rows, cols]] of Object.entries(sizes) as [Name, Size][]) {
    starts[name] = end;
    end = Math.ceil((end + rows * cols) / 64) * 64;
  }
  return { starts, end };
}
