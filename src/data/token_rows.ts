const CHUNK_TOKENS = 2 ** 20;

/**
 * Rows of token ids, each token with a mark, in a few large arrays: 5 bytes a token and 12 a row, where arrays of its own would take
 * a row some hundred bytes more.
 */
export class TokenRows {
  private readonly chunks: { ids: Int32Array; marks: Uint8Array }[] = [];
  private used = 0; // of the last chunk
  /** Chunk, first token and number of tokens of each row. */
  private places = new Uint32Array(3 * 256);
  #length = 0;
  #tokens = 0;

  /** Rows. */
  get length(): number {
    return this.#length;
  }

  /** Tokens of all rows. */
  get tokens(): number {
    return this.#tokens;
  }

  /** Adds a row; marks are 0 or 1, and 0 where missing. */
  add(ids: ArrayLike<number>, marks?: ArrayLike<number>): void {
    const chunk = this.chunkFor(ids.length);
    chunk.ids.set(ids, this.used);
    if (marks) chunk.marks.set(marks, this.used);
    if (this.places.length < 3 * (this.#length + 1)) {
      const grown = new Uint32Array(2 * this.places.length);
      grown.set(this.places);
      this.places = grown;
    }
    this.places.set([this.chunks.length - 1, this.used, ids.length], 3 * this.#length++);
    this.used += ids.length;
    this.#tokens += ids.length;
  }

  private chunkFor(count: number): { ids: Int32Array; marks: Uint8Array } {
    const last = this.chunks.at(-1);
    if (last && this.used + count <= last.ids.length) return last;
    const size = Math.max(count, CHUNK_TOKENS);
    const made = { ids: new Int32Array(size), marks: new Uint8Array(size) };
    this.chunks.push(made);
    this.used = 0;
    return made;
  }

  /** Number of tokens of a row. */
  size(row: number): number {
    return this.places[3 * row + 2];
  }

  /** A row's ids and marks, as they lie here. */
  at(row: number): { ids: Int32Array; marks: Uint8Array } {
    if (!Number.isInteger(row) || row < 0 || row >= this.#length) throw new RangeError(`row ${row} of ${this.#length}`);
    const [chunk, first, count] = this.places.subarray(3 * row, 3 * row + 3);
    const { ids, marks } = this.chunks[chunk];
    return { ids: ids.subarray(first, first + count), marks: marks.subarray(first, first + count) };
  }

  /** The ids of all rows, in order. */
  *all(): Generator<Int32Array> {
    for (let row = 0; row < this.#length; row++) yield this.at(row).ids;
  }
}
