#!/usr/bin/env node
// A judge that is a rule, not people: it likes answers that say something about the question in one or two finished
// sentences. It stands in for a rater, so that the example in scripts/smollm2.sh can be run by anybody.
//
//   rlhf sample --model M --k 4 < prompts.jsonl | node scripts/one-sentence-judge.mjs    scored rows, with "rewards"
//   rlhf ppo --reward 'cmd:node scripts/one-sentence-judge.mjs' …                        the same as a reward
//
// An answer's score, between −2 and 2, is
//   finished    1 where it ended by itself, behind a full stop, ! or ?; else 0
//   on topic    + how many of the question's own words it takes up: 1 for three of them (or all, where it has fewer)
//   too long    − what it has beyond 25 words, in parts of 25, at most 1
//   repetitive  − share of its runs of three words that have been there before
// So it knows nothing of whether an answer is true, and a model that learns from it will not learn that either.
import { pathToFileURL } from 'node:url';
import { mapRows } from './rows.mjs';

const WORDS_ALLOWED = 25;
const TOPIC_WORDS = 3;
/** Words of four letters and more that say what to do and not what about. */
const COMMON = new Set(`about also appropriate based been best brief come could create describe description design each
  example examples explain find following from generate give given good have help include information into just like list
  make mention more most name need please provide provided question should some suggest tell than that their them there
  these they think this using want what when which will with word words would write your`.split(/\s+/));

const wordsOf = (text) => text.toLowerCase().match(/[\p{L}\p{N}]+(?:['’][\p{L}]+)*/gu) ?? [];
/** "cities" and "city" are one word, roughly: the first five letters count. */
const stem = (word) => word.slice(0, 5);

/** The text that the user asked with: a prompt, or the last turn of a conversation. */
export function questionOf({ prompt, messages }) {
  const asked = prompt ?? messages;
  return typeof asked === 'string' ? asked : asked.at(-1).content;
}

/** The score of one answer and its four parts. `cut`: it was cut off at the longest length allowed. */
export function judge(question, answer, cut) {
  const words = wordsOf(answer);
  const finished = !cut && words.length >= 3 && /[.!?]["”’')\]*]*\s*$/u.test(answer) ? 1 : 0;
  const topic = new Set(wordsOf(question).filter((word) => word.length >= 4 && !COMMON.has(word)).map(stem));
  const said = new Set(words.map(stem));
  const found = [...topic].filter((word) => said.has(word)).length;
  const onTopic = topic.size === 0 ? 1 : Math.min(1, found / Math.min(TOPIC_WORDS, topic.size));
  const tooLong = Math.min(1, Math.max(0, words.length - WORDS_ALLOWED) / WORDS_ALLOWED);
  const runs = words.slice(2).map((word, i) => `${words[i]} ${words[i + 1]} ${word}`);
  const repetitive = runs.length === 0 ? 0 : 1 - new Set(runs).size / runs.length;
  return { score: finished + onTopic - tooLong - repetitive, finished, onTopic, tooLong, repetitive, words: words.length };
}

/** A row of completions with "rewards" (or "reward", where it has one completion). */
export function judged(row) {
  const question = questionOf(row);
  const score = (text, reason) => judge(question, text, reason === 'length').score;
  return Array.isArray(row.completions)
    ? { ...row, rewards: row.completions.map((text, i) => score(text, row.finish_reason?.[i])) }
    : { ...row, reward: score(row.completion, row.finish_reason) };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await mapRows('one-sentence-judge', judged);
