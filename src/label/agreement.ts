import { basename } from 'node:path';
import { streamRows } from '../data/collect.ts';
import { asRanking } from '../data/rows.ts';
import { taskId } from './tasks.ts';

/**
 * How far two labelers agree. A pair of answers to one prompt that both have ranked is one comparison; each says that
 * the first is better, the second is better, or that they tie.
 */
export interface Agreement {
  labelers: [string, string];
  prompts: number;
  pairs: number;
  /** Same verdict, ties included. */
  agreement: number | null;
  /** Comparisons that neither tied, and the share of them in the same order. */
  strict_pairs: number;
  strict_agreement: number | null;
  both_tied: number;
  one_tied: number;
  /** Cohen's kappa over the three verdicts; null where chance alone would agree always. */
  kappa: number | null;
}

/** Answers to a prompt in the order of their texts, and how they were ranked. */
interface Judged {
  completions: string[];
  ranks: number[];
}

/** labeler → task → what was judged */
type Rankings = Map<string, Map<string, Judged>>;

/** Reads rankings by `labeler`, or by the file's name where a row has none. The last of several verdicts counts. */
export async function readRankings(files: string[]): Promise<Rankings> {
  const rankings: Rankings = new Map();
  for await (const { row, item } of streamRows(files, (value) => asRanking(value))) {
    const name = row.value.labeler;
    const labeler = typeof name === 'string' ? name : basename(row.source).replace(/\.jsonl(\.gz)?$/, '');
    let own = rankings.get(labeler);
    if (!own) rankings.set(labeler, (own = new Map()));
    // The same answers in another order are the same task: ranks are kept in the order of the texts.
    const order = item.completions.map((_, i) => i)
      .sort((a, b) => compareTexts(item.completions[a]!, item.completions[b]!));
    const completions = order.map((i) => item.completions[i]!);
    own.set(taskId(item.prompt, completions), { completions, ranks: order.map((i) => item.ranks[i]!) });
  }
  return rankings;
}

/** Agreement of each two labelers that have ranked a prompt in common. */
export function agreements(rankings: Rankings): Agreement[] {
  const labelers = [...rankings.keys()].sort(compareTexts);
  const pairs = labelers.flatMap((first, i) => labelers.slice(i + 1).map((second) => [first, second] as const));
  return pairs.map(([first, second]) => compareLabelers(first, second, rankings)).filter(({ prompts }) => prompts > 0);
}

function compareLabelers(first: string, second: string, rankings: Rankings): Agreement {
  const counts = { prompts: 0, pairs: 0, same: 0, strict: 0, strictSame: 0, bothTied: 0, tiesFirst: 0, tiesSecond: 0 };
  for (const [id, { completions, ranks }] of rankings.get(first)!) {
    const others = rankings.get(second)!.get(id)?.ranks;
    if (!others) continue;
    counts.prompts++;
    // A text that is there several times was judged once: a copy that both rank as the one before it says nothing new.
    const judged = completions.map((_, i) => i)
      .filter((i) => completions[i] !== completions[i - 1] || ranks[i] !== ranks[i - 1] || others[i] !== others[i - 1]);
    for (const i of judged) {
      for (const j of judged) {
        if (j >= i || completions[i] === completions[j]) continue;
        const a = Math.sign(ranks[i]! - ranks[j]!);
        const b = Math.sign(others[i]! - others[j]!);
        counts.pairs++;
        counts.same += Number(a === b);
        counts.bothTied += Number(a === 0 && b === 0);
        counts.tiesFirst += Number(a === 0);
        counts.tiesSecond += Number(b === 0);
        counts.strict += Number(a !== 0 && b !== 0);
        counts.strictSame += Number(a !== 0 && a === b);
      }
    }
  }
  const share = (part: number, whole: number) => (whole > 0 ? part / whole : null);
  return {
    labelers: [first, second],
    prompts: counts.prompts,
    pairs: counts.pairs,
    agreement: share(counts.same, counts.pairs),
    strict_pairs: counts.strict,
    strict_agreement: share(counts.strictSame, counts.strict),
    both_tied: counts.bothTied,
    one_tied: counts.tiesFirst + counts.tiesSecond - 2 * counts.bothTied,
    kappa: kappa(counts),
  };
}

/**
 * (observed − chance) / (1 − chance). Which answer of a pair comes first means nothing, so by chance a verdict that is
 * no tie goes either way with one half.
 */
function kappa(counts: { pairs: number; same: number; tiesFirst: number; tiesSecond: number }): number | null {
  const { pairs, same, tiesFirst, tiesSecond } = counts;
  if (pairs === 0) return null;
  const [a, b] = [tiesFirst / pairs, tiesSecond / pairs];
  const chance = a * b + ((1 - a) * (1 - b)) / 2;
  return chance === 1 ? null : (same / pairs - chance) / (1 - chance);
}

const compareTexts = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
