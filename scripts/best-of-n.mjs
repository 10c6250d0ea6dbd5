#!/usr/bin/env node
// Best-of-n: of the first n completions of each scored row, the one with the highest reward.
//   rlhf sample --model sft --k 16 < prompts.jsonl | rlhf score --model rm | node scripts/best-of-n.mjs 4
import { pathToFileURL } from 'node:url';
import { mapRows } from './rows.mjs';

/** {prompt, completions, rewards} → {prompt, completion, reward, n}. */
export function bestOf(row, n) {
  if (!Array.isArray(row.rewards) || row.rewards.length < n) {
    throw new Error(`best of ${n} needs as many "rewards", a row has ${row.rewards?.length ?? 'none'}`);
  }
  const rewards = row.rewards.slice(0, n);
  const best = rewards.indexOf(Math.max(...rewards));
  const finish = Array.isArray(row.finish_reason) ? { finish_reason: row.finish_reason[best] } : {};
  return { prompt: row.prompt, completion: row.completions[best], ...finish, reward: rewards[best], n };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const n = Number(process.argv[2]);
  if (!Number.isInteger(n) || n < 1) {
    console.error('usage: node scripts/best-of-n.mjs N < scored.jsonl');
    process.exit(2);
  }
  await mapRows('best-of-n', (row) => bestOf(row, n));
}
