import type { EncodedDemonstration } from '../data/encode.ts';
import { Packer, type PackedRow } from '../data/pack.ts';
import { TokenRows } from '../data/token_rows.ts';
import type { PackRow } from '../model/batch.ts';

/** Rows of a data set whose likelihood is trained or measured. They are made when they are asked for: a data set may have millions. */
export abstract class LikelihoodRows implements Iterable<PackRow> {
  /** Rows. */
  abstract readonly length: number;
  /** Tokens of all rows. */
  abstract readonly tokens: number;
  /** Tokens of a row. */
  abstract size(row: number): number;
  abstract at(row: number): PackRow;

  *[Symbol.iterator](): Generator<PackRow> {
    for (let row = 0; row < this.length; row++) yield this.at(row);
  }
}

/** Demonstrations, a row each: the tokens that are marked are learnt, each from the place before it. */
export class Demonstrations extends LikelihoodRows {
  private readonly rows = new TokenRows();

  get length(): number {
    return this.rows.length;
  }

  get tokens(): number {
    return this.rows.tokens;
  }

  add({ ids, mask }: EncodedDemonstration): void {
    this.rows.add(ids, mask);
  }

  size(row: number): number {
    return this.rows.size(row);
  }

  at(row: number): PackRow {
    const { ids, marks } = this.rows.at(row);
    const at: number[] = [];
    for (let t = 1; t < ids.length; t++) if (marks[t]) at.push(t - 1);
    return { ids, at, targets: at.map((t) => ids[t + 1]), key: row };
  }
}

/** Demonstrations in their order, packed into rows of at most `context` tokens, attention kept apart. */
export class PackedDemonstrations extends LikelihoodRows {
  /** The first demonstration of each row, and their number. */
  private readonly firsts: Uint32Array;

  constructor(private readonly demonstrations: Demonstrations, context: number) {
    super();
    const firsts: number[] = [];
    let length = Infinity;
    for (let i = 0; i < demonstrations.length; i++) {
      const size = demonstrations.size(i);
      if (length + size > context) {
        firsts.push(i);
        length = 0;
      }
      length += size;
    }
    firsts.push(demonstrations.length);
    this.firsts = Uint32Array.from(firsts);
  }

  get length(): number {
    return this.firsts.length - 1;
  }

  get tokens(): number {
    return this.demonstrations.tokens;
  }

  size(row: number): number {
    let size = 0;
    for (let i = this.firsts[row]; i < this.firsts[row + 1]; i++) size += this.demonstrations.size(i);
    return size;
  }

  at(row: number): PackRow {
    const ids = new Int32Array(this.size(row));
    const segments: [number, number][] = [];
    const at: number[] = [];
    let start = 0;
    for (let i = this.firsts[row]; i < this.firsts[row + 1]; i++) {
      const one = this.demonstrations.at(i);
      ids.set(one.ids, start);
      segments.push([start, one.ids.length]);
      for (let pick = 0; pick < one.at.length; pick++) at.push(start + one.at[pick]);
      start += one.ids.length;
    }
    return { ids, segments, at, targets: at.map((t) => ids[t + 1]), key: row };
  }
}

/** Documents one after the other in rows of `context` tokens: every token counts but the first of a document's part in a row. */
export class Documents extends LikelihoodRows {
  private readonly rows = new TokenRows(); // marked where a part begins
  private readonly packer: Packer;

  constructor(context: number) {
    super();
    this.packer = new Packer(context);
  }

  get length(): number {
    return this.rows.length;
  }

  get tokens(): number {
    return this.rows.tokens;
  }

  add(document: ArrayLike<number>): void {
    for (const row of this.packer.add(document)) this.keep(row);
  }

  /** After the last document: its rest makes a shorter row. */
  end(): void {
    for (const row of this.packer.end()) this.keep(row);
  }

  /** Whether some token follows another of its document. */
  hasTargets(): boolean {
    for (let row = 0; row < this.length; row++) if (this.at(row).at.length > 0) return true;
    return false;
  }

  private keep({ ids, segments }: PackedRow): void {
    const marks = new Uint8Array(ids.length);
    for (const [start] of segments) marks[start] = 1;
    this.rows.add(ids, marks);
  }

  size(row: number): number {
    return this.rows.size(row);
  }

  at(row: number): PackRow {
    const { ids, marks } = this.rows.at(row);
    const segments: [number, number][] = [];
    const at: number[] = [];
    for (let t = 0; t < ids.length; t++) {
      if (marks[t]) segments.push([t, 1]);
      else {
        segments.at(-1)![1]++;
        at.push(t - 1);
      }
    }
    return { ids, segments, at, targets: at.map((t) => ids[t + 1]), key: row };
  }
}
