import { TokenRows } from '../data/token_rows.ts';

/** A prompt with its K responses as token rows that end with EOS. */
export interface EncodedRanking {
  responses: Int32Array[];
  ranks: number[];
  margin: number;
}

export const hasStrictPair = ({ ranks }: Pick<EncodedRanking, 'ranks'>): boolean => ranks.some((r) => r !== ranks[0]);

/** Rankings of a data set, made when they are asked for: it may have millions. */
export class RankingRows implements Iterable<EncodedRanking> {
  private readonly responses = new TokenRows();
  private readonly ranks: number[] = [];
  private readonly margins: number[] = [];
  /** The first response of each ranking, and the number of all. */
  private readonly firsts: number[] = [0];

  get length(): number {
    return this.margins.length;
  }

  /** Tokens of all responses, each with its prompt. */
  get tokens(): number {
    return this.responses.tokens;
  }

  add({ responses, ranks, margin }: EncodedRanking): void {
    for (const ids of responses) this.responses.add(ids);
    this.ranks.push(...ranks);
    this.margins.push(margin);
    this.firsts.push(this.ranks.length);
  }

  at(ranking: number): EncodedRanking {
    const [first, end] = [this.firsts[ranking], this.firsts[ranking + 1]];
    return {
      responses: Array.from({ length: end - first }, (_, i) => this.responses.at(first + i).ids),
      ranks: this.ranks.slice(first, end),
      margin: this.margins[ranking],
    };
  }

  *[Symbol.iterator](): Generator<EncodedRanking> {
    for (let i = 0; i < this.length; i++) yield this.at(i);
  }

  /** Whether any prompt has two responses of different ranks. */
  hasStrictPair(): boolean {
    for (const ranking of this) if (hasStrictPair(ranking)) return true;
    return false;
  }

  /** The best-ranked responses of each prompt. */
  *best(): Generator<Int32Array> {
    for (const { responses, ranks } of this) {
      const least = Math.min(...ranks);
      yield* responses.filter((_, i) => ranks[i] === least);
    }
  }
}
