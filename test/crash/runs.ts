import { TINY, type WholeProgram } from '../properties/program.ts';

const nouns = ['cat', 'dog', 'bird', 'fish', 'frog', 'bee'];
const verbs = ['sat on', 'saw', 'ran to', 'ate'];
const sentence = (i: number): string => `a ${nouns[i % 6]} ${verbs[(i * 7) % 4]} a ${nouns[(i * 5 + 1) % 6]}`;
const count = <T>(n: number, make: (i: number) => T): T[] => Array.from({ length: n }, (_, i) => make(i));

/** The arguments of `rlhf pretrain` on the small texts, all but --out: 12 steps. */
export const PRETRAIN = [
  'pretrain',
  '--data',
  'text.jsonl',
  '--eval-data',
  'held-out.jsonl',
  ...TINY,
  '--batch-size',
  '12',
  '--epochs',
  '2',
  '--dropout',
  '0.1',
  '--warmup',
  '2',
];

/** Writes small data sets of every kind and pretrains `base` on the texts. */
export async function prepareData(rlhf: WholeProgram): Promise<void> {
  rlhf.rows(
    'text.jsonl',
    count(60, (i) => ({ text: `${sentence(i)} and ${sentence(i + 3)}` })),
  );
  rlhf.rows(
    'held-out.jsonl',
    count(8, (i) => ({ text: sentence(100 + i) })),
  );
  rlhf.rows(
    'demonstrations.jsonl',
    count(20, (i) => ({ prompt: `what did a ${nouns[i % 6]}`, completion: ` ${sentence(i)}`.slice(0, 18) })),
  );
  rlhf.rows(
    'dev.jsonl',
    count(5, (i) => ({ prompt: `who ${verbs[i % 4]}`, completion: ` ${nouns[i]}` })),
  );
  rlhf.rows(
    'rankings.jsonl',
    count(18, (i) => ({
      prompt: `what ${i}`,
      completions: count(2 + (i % 3), (k) => ` ${sentence(i + k)}`.slice(0, 14)),
      ranks: count(2 + (i % 3), (k) => (k * 5 + i) % 4),
    })),
  );
  rlhf.rows(
    'prompts.jsonl',
    count(7, (i) => ({ prompt: `a ${nouns[i % 6]} ${verbs[i % 4]}` })),
  );
  await rlhf.succeed([...PRETRAIN, '--out', 'base', '--quiet', '--lr', '0.003']);
}
