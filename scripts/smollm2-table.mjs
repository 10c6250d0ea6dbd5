#!/usr/bin/env node
// The closing table of scripts/smollm2.sh: two models' answers to the same prompts, under the judge and the reward model.
//   node scripts/smollm2-table.mjs sft-scored.jsonl ppo-scored.jsonl [--examples 3]
// Rows are those of `rlhf score`: {"messages"|"prompt", "completion", "finish_reason", "reward"}. Brackets are 95 % bootstrap
// intervals over prompts; the change is paired by prompt.
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { asUnits, interval, pairedInterval } from './bootstrap.mjs';
import { judge, questionOf } from './one-sentence-judge.mjs';
import { cell, plainTable } from './quickstart-table.mjs';

/** Heading, decimals, and what it takes of a row and the judge's verdict on it. */
const COLUMNS = [
  ['judge', 2, (_, verdict) => verdict.score],
  ['finished', 2, (_, verdict) => verdict.finished],
  ['on topic', 2, (_, verdict) => verdict.onTopic],
  ['words', 1, (_, verdict) => verdict.words],
  ['reward', 2, ({ reward }) => reward],
];

/** {columns, rows} for scored answers before and after; both lists answer the same prompts in the same order. */
export function comparison(before, after) {
  if (before.length !== after.length) throw new Error(`${before.length} answers before, ${after.length} after`);
  before.forEach((row, i) => {
    if (questionOf(row) !== questionOf(after[i])) throw new Error(`row ${i + 1} answers another prompt before and after`);
  });
  const verdicts = (rows) => rows.map((row) => [row, judge(questionOf(row), row.completion, row.finish_reason === 'length')]);
  const [one, two] = [verdicts(before), verdicts(after)];
  const units = (rows, take) => asUnits(rows.map(([row, verdict]) => take(row, verdict)));
  const line = (name, value) => [name, ...COLUMNS.map(([, digits, take]) => cell(value(take), digits))];
  return {
    columns: ['greedy answers', ...COLUMNS.map(([title]) => title)],
    rows: [
      line('before (SFT)', (take) => interval(units(one, take))),
      line('after (PPO)', (take) => interval(units(two, take))),
      line('change', (take) => pairedInterval(units(one, take), units(two, take))),
    ],
  };
}

function main() {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { examples: { type: 'string', default: '3' } } });
  if (positionals.length !== 2) throw new Error('two files are needed: before and after');
  const [before, after] = positionals.map((path) =>
    readFileSync(path, 'utf8').split('\n').filter((line) => line.trim() !== '').map((line) => JSON.parse(line)));
  console.log(plainTable(comparison(before, after)));
  for (let i = 0; i < Math.min(Number(values.examples), before.length); i++) {
    const shown = (text) => JSON.stringify(text);
    console.log(`\nprompt ${shown(questionOf(before[i]))}\nbefore ${shown(before[i].completion)}\nafter  ${shown(after[i].completion)}`);
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  try {
    main();
  } catch (error) {
    console.error(`smollm2-table: ${error.message}`);
    process.exit(2);
  }
}
