#!/usr/bin/env node
// Makes datasets/ from the upstream-shaped files; datasets/NOTICE.md says where those come from. Run once, by whoever
// changes the data; the same input gives the same bytes.
//
//   node scripts/make-datasets.mjs PATH [--out datasets]
//
// PATH holds e2e/sft-mini-6k.jsonl, e2e/sft-dev.jsonl (rows {"prompt","completion"}), e2e/kway.jsonl (rows {"prompt",
// "completions":[{"text","quality_rel",…}]}), pretrain-text/tinyshakespeare.txt, pretrain-text/wikitext2.valid.txt, and
// self-instruct/seed_tasks.jsonl and user_oriented_instructions.jsonl (rows {"id","instruction","instances":[{"input"}]}).
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';
import { generator, shuffled } from './bootstrap.mjs';

const HELD_OUT_RANKINGS = 50;
const SPLIT_SEED = 0;
const TRAINING_PROSE = 420_000; // characters of each source: about 400,000 tokens together at a vocabulary of 1,024
const HELD_OUT_PROSE = 60_000;
const TOKENIZER_PROSE = 125_000;
const LONGEST_INSTRUCTION = 240; // characters: what a small model answers in a sentence
const HELD_OUT_INSTRUCTIONS = 48;
/** Tasks that ask for a stereotype, an insult, somebody's address or number: a demonstration does without. */
const LEFT_OUT = new Set([3, 27, 54, 67, 77, 113, 115, 120, 149].map((number) => `seed_task_${number}`));

/** A prompt as the model sees it: the meaning representation and a line break. */
export const asPrompt = (meaning) => `${meaning}\n`;

/** Quality scores, higher is better → ranks, lower is better, equal scores tied: [.4, .1, .4] → [1, 2, 1]. */
export function ranksOf(scores) {
  const levels = [...new Set(scores)].sort((a, b) => b - a);
  return scores.map((score) => levels.indexOf(score) + 1);
}

/** One row of the K-way file in the program's rankings form; the scores stay beside the ranks. */
export function rankingOf({ prompt, completions }) {
  const judged = completions.filter(({ quality_rel: score }) => Number.isFinite(score));
  const scores = judged.map(({ quality_rel: score }) => score);
  return { prompt: asPrompt(prompt), completions: judged.map(({ text }) => text), ranks: ranksOf(scores), scores };
}

/** WikiText marks an article's title as ` = Title = ` on a line of its own (two or more = are its sections). */
export function articlesOf(wikitext) {
  return wikitext.split(/^(?= = [^=\n]+ = *$)/m).map((article) => article.trim()).filter((article) => article !== '');
}

/** Speeches joined into passages of at least `size` characters, cut at blank lines only. */
export function passagesOf(play, size = 4_000) {
  const passages = [];
  let passage = '';
  for (const speech of play.trim().split(/\n{2,}/)) {
    passage += (passage === '' ? '' : '\n\n') + speech;
    if (passage.length >= size) {
      passages.push(passage);
      passage = '';
    }
  }
  return passage === '' ? passages : [...passages, passage];
}

/** Documents from the start until `characters` are reached; the rest is returned too. */
export function take(documents, characters) {
  let total = 0;
  const end = documents.findIndex((document) => (total += document.length) >= characters);
  const count = end < 0 ? documents.length : end + 1;
  return [documents.slice(0, count), documents.slice(count)];
}

/** Two lists in turn, so that any prefix holds both kinds in about equal parts. */
export function interleave(a, b) {
  const rows = [];
  for (let i = 0, j = 0; i < a.length || j < b.length; ) {
    if (j >= b.length || (i < a.length && i * b.length <= j * a.length)) rows.push(a[i++]);
    else rows.push(b[j++]);
  }
  return rows;
}

/** A task's first instance as a user's turn behind the wish for a short answer; undefined for a task of classification, a long one, or one left out. */
export function instructionOf({ id, instruction, instances: [{ input }], is_classification: isClassification }) {
  const text = input === '' ? instruction.trim() : `${instruction.trim()}\n\n${input.trim()}`;
  if (isClassification || text.length > LONGEST_INSTRUCTION || LEFT_OUT.has(id)) return undefined;
  return { messages: [{ role: 'system', content: 'Answer in one short sentence.' }, { role: 'user', content: text }] };
}

function make(source, out) {
  const rowsOf = (name) => readFileSync(join(source, name), 'utf8').trim().split('\n').map((line) => JSON.parse(line));
  const write = (name, rows) => {
    const text = rows.map((row) => `${JSON.stringify(row)}\n`).join('');
    const bytes = name.endsWith('.gz') ? gzipSync(text, { level: 9 }) : Buffer.from(text);
    writeFileSync(join(out, name), bytes);
    console.log(`${name.padEnd(32)} ${String(rows.length).padStart(6)} rows ${String(bytes.length).padStart(9)} bytes`);
  };
  for (const folder of ['restaurants', 'prose', 'instructions']) mkdirSync(join(out, folder), { recursive: true });

  const demonstration = ({ prompt, completion }) => ({ prompt: asPrompt(prompt), completion });
  const demonstrations = rowsOf('e2e/sft-mini-6k.jsonl').map(demonstration);
  const development = rowsOf('e2e/sft-dev.jsonl').map(demonstration);
  const promptsOf = (rows) => [...new Set(rows.map(({ prompt }) => prompt))].map((prompt) => ({ prompt }));
  write('restaurants/demonstrations.jsonl.gz', demonstrations);
  write('restaurants/prompts.jsonl', promptsOf(demonstrations));
  write('restaurants/dev-references.jsonl.gz', development);
  write('restaurants/dev-prompts.jsonl', promptsOf(development));

  const rankings = shuffled(rowsOf('e2e/kway.jsonl').map(rankingOf), generator(SPLIT_SEED));
  write('restaurants/rankings.jsonl', rankings.slice(HELD_OUT_RANKINGS));
  write('restaurants/rankings-held-out.jsonl', rankings.slice(0, HELD_OUT_RANKINGS));

  const plays = passagesOf(readFileSync(join(source, 'pretrain-text/tinyshakespeare.txt'), 'utf8'));
  const articles = articlesOf(readFileSync(join(source, 'pretrain-text/wikitext2.valid.txt'), 'utf8'));
  const [trainingPlays, otherPlays] = take(plays, TRAINING_PROSE);
  const [trainingArticles, otherArticles] = take(articles, TRAINING_PROSE);
  const texts = (documents) => documents.map((text) => ({ text }));
  write('prose/train.jsonl.gz', texts(interleave(trainingPlays, trainingArticles)));
  write('prose/held-out.jsonl.gz',
    texts(interleave(take(otherPlays, HELD_OUT_PROSE)[0], take(otherArticles, HELD_OUT_PROSE)[0])));
  // What the vocabulary is learnt from: all demonstrations and a little of the prose.
  const spoken = demonstrations.map(({ prompt, completion }) => prompt + completion);
  const prose = interleave(take(trainingPlays, TOKENIZER_PROSE)[0], take(trainingArticles, TOKENIZER_PROSE)[0]);
  write('prose/vocabulary.jsonl.gz', texts([...spoken, ...prose]));

  const tasks = ['seed_tasks', 'user_oriented_instructions'].flatMap((name) => rowsOf(`self-instruct/${name}.jsonl`));
  const instructions = shuffled(tasks.map(instructionOf).filter(Boolean), generator(SPLIT_SEED));
  write('instructions/prompts.jsonl', instructions.slice(HELD_OUT_INSTRUCTIONS));
  write('instructions/held-out-prompts.jsonl', instructions.slice(0, HELD_OUT_INSTRUCTIONS));
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const [source, flag, out = 'datasets'] = process.argv.slice(2);
  if (source === undefined || (flag !== undefined && flag !== '--out')) {
    console.error('usage: node scripts/make-datasets.mjs PATH [--out datasets]');
    process.exit(2);
  }
  make(source, out);
}
