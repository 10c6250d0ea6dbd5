/**
 * A row of packed documents. Segments are [start, length], one a document or part of one, in order and without gaps:
 * attention and positions restart at each.
 */
export interface PackedRow {
  ids: Int32Array;
  segments: [number, number][];
}

/**
 * Documents (each with its BOS and EOS) one after the other, cut into rows of `context` tokens; what a cut leaves of a
 * document begins the next row as a segment of its own. The last row may be shorter; one of a single token, which has
 * nothing to predict, is left out.
 */
export function packAll(documents: Iterable<ArrayLike<number>>, context: number): PackedRow[] {
  const packer = new Packer(context);
  const rows: PackedRow[] = [];
  for (const document of documents) rows.push(...packer.add(document));
  return [...rows, ...packer.end()];
}

/** Packs documents as `packAll` does, but as they come, holding one row: `add` for each, then `end`. */
export class Packer {
  #ids: Int32Array;
  #used = 0;
  #segments: [number, number][] = [];

  constructor(readonly context: number) {
    if (!Number.isInteger(context) || context < 2) throw new RangeError(`context ${context}: rows need two tokens`);
    this.#ids = new Int32Array(context);
  }

  *add(document: ArrayLike<number>): Generator<PackedRow> {
    for (let read = 0; read < document.length; ) {
      const length = Math.min(document.length - read, this.context - this.#used);
      for (let i = 0; i < length; i++) this.#ids[this.#used + i] = document[read + i];
      this.#segments.push([this.#used, length]);
      this.#used += length;
      read += length;
      if (this.#used === this.context) yield this.#take();
    }
  }

  *end(): Generator<PackedRow> {
    if (this.#used > 1) yield this.#take();
  }

  #take(): PackedRow {
    const row = { ids: this.#ids.slice(0, this.#used), segments: this.#segments };
    this.#used = 0;
    this.#segments = [];
    return row;
  }
}
