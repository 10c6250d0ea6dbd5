#!/usr/bin/env node
// Rankings for `rlhf train-rm` from scored completions: the highest reward has rank 1, equal rewards are a tie.
//   rlhf sample --model sft --k 4 < prompts.jsonl | JUDGE | node scripts/ranks-from-rewards.mjs > rankings.jsonl
import { pathToFileURL } from 'node:url';
import { ranksOf } from './make-datasets.mjs';
import { mapRows } from './rows.mjs';

/** {…, completions, rewards} → the same with ranks. */
export function ranked(row) {
  const { completions, rewards } = row;
  if (!Array.isArray(completions) || !Array.isArray(rewards) || rewards.length !== completions.length) {
    throw new Error('a row needs "completions" and as many "rewards"');
  }
  const bad = rewards.find((reward) => !Number.isFinite(reward));
  if (bad !== undefined) throw new Error(`reward ${JSON.stringify(bad)} is not a number`);
  return { ...row, ranks: ranksOf(rewards) };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await mapRows('ranks-from-rewards', ranked);
