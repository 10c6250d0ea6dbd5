#!/usr/bin/env node
// The gold metric of the restaurant job: does a text say what its meaning representation says? Rules over words, made
// by hand; the reward model never sees it.
//
//   rlhf sample --model policy --greedy < prompts.jsonl | node scripts/slot-error.mjs   the rows, each with its verdict
//   node scripts/slot-error.mjs --summary sft.jsonl ppo.jsonl       one JSON a file, with 95 % intervals
//   node scripts/slot-error.mjs --against sft.jsonl ppo.jsonl       one JSON a file: ppo minus sft, paired by prompt
//   rlhf ppo --reward 'cmd:node scripts/slot-error.mjs --as-reward' …              scored rows, reward = − slot error
//
// A row is {"prompt", "completion"} or {"prompt", "completions"}. Intervals resample prompts (--resamples N, --seed N).
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { interval, pairedInterval } from './bootstrap.mjs';

/** Every name and neighbour of the data: a text that mentions one which its prompt lacks has made it up. */
const ENTITIES = [
  'Alimentum', 'Aromi', 'Bibimbap House', 'Blue Spice', 'Browns Cambridge', 'Clowns', 'Cocum', 'Cotto', 'Fitzbillies',
  'Giraffe', 'Green Man', 'Loch Fyne', 'Midsummer House', 'Strada', 'Taste of Cambridge', 'The Cambridge Blue',
  'The Cricketers', 'The Dumpling Tree', 'The Eagle', 'The Golden Curry', 'The Golden Palace', 'The Mill',
  'The Olive Grove', 'The Phoenix', 'The Plough', 'The Punter', 'The Rice Boat', 'The Twenty Two', 'The Vaults',
  'The Waterman', 'The Wrestlers', 'Travellers Rest Beefeater', 'Wildwood', 'Zizzi',
  'All Bar One', 'Avalon', 'Burger King', 'Café Adriatic', 'Café Brazil', 'Café Rouge', 'Café Sicilia', 'Clare Hall',
  'Crowne Plaza Hotel', 'Express by Holiday Inn', 'Rainbow Vegetarian Café', 'Raja Indian Cuisine', 'Ranch',
  'The Bakers', 'The Portland Arms', 'The Six Bells', 'The Sorrento', 'Yippee Noodle Bar',
];

/** Values of which another one than the prompt's is made up. "restaurant" is left out: people call every place one. */
const CLOSED_SLOTS = {
  food: ['chinese', 'english', 'fast food', 'french', 'indian', 'italian', 'japanese'],
  area: ['city centre', 'riverside'],
  eatType: ['coffee shops?', 'pubs?'],
};

/** Accents, case, apostrophes, dashes and the spelling of "centre" away, so that the rules match plain words. */
export function normalise(text) {
  return text
    .normalize('NFKD')
    .replace(/\p{M}/gu, '')
    .toLowerCase()
    .replace(/['‘’`´]/g, '')
    .replace(/[-‐‑‒–—―_/\\]/g, ' ')
    .replace(/\bcenter\b/g, 'centre')
    .replace(/\s+/g, ' ')
    .trim();
}

/** `name[The Mill], food[English]` → {name: 'The Mill', food: 'English'}. */
export function parseMeaning(prompt) {
  const slots = {};
  for (const [, key, value] of prompt.matchAll(/([^,[\]\n]+)\[([^\]]*)\]/g)) slots[key.trim()] = value.trim();
  return slots;
}

// A rule is matched on whole words. A space stands for any gap inside a sentence, ` … ` for up to three words between.
const GAP = '[^a-z0-9£.!?;]+';
const wholeWords = (rule) =>
  `(?<![a-z0-9£])(?:${rule.replaceAll(' … ', `(?:${GAP}[a-z0-9£]+){0,3}?${GAP}`).replaceAll(' ', GAP)})(?![a-z0-9])`;
const anyOf = (...rules) => new RegExp(rules.map(wholeWords).join('|'));
const eitherOrder = (a, b) => [`(?:${a}) … (?:${b})`, `(?:${b}) … (?:${a})`];

const PRICE_WORD = 'pric(?:e|es|ed|ing)';
const CHEAP = ['cheap(?:ly|er|est)?', 'inexpensive(?:ly)?', 'affordabl[ey]', 'budget', 'low costs?',
  ...eitherOrder('low(?:er)?', PRICE_WORD)];
const HIGH = ['expensive', 'pric[ei]?y', 'pricier', 'high costs?', 'high end', 'upscale',
  ...eitherOrder('high(?:er|ly)?', PRICE_WORD)];
const MODERATE = ['moderate(?:ly)?', 'mid range', 'mid priced?', 'medium', 'reasonabl[ey]',
  ...eitherOrder('average|fair|fairly|decent', PRICE_WORD)];
const PRICES = {
  cheap: anyOf(...CHEAP),
  high: anyOf(...HIGH),
  moderate: anyOf(...MODERATE),
  'less than £20': anyOf('(?:less|under|below|up to) … £?(?:20|twenty)', ...CHEAP),
  'more than £30': anyOf('(?:more|over|at least|starting|start) … £?(?:30|thirty)', ...HIGH),
  '£20-25': anyOf('£?(?:20|twenty) … £?(?:25|twenty five)', ...MODERATE),
};

const RATING_WORD = 'rating|ratings|rated|rate|rates|review|reviews|reviewed|score|scores|scored';
const ratingRule = (count, adjectives) => anyOf(`(?:${count}) (?:out of|of|out) (?:5|five)`, `(?:${count}) stars?`,
  ...eitherOrder(adjectives, RATING_WORD));
const LOW_RATING = ratingRule('1|one', 'low|poor|poorly|bad');
const AVERAGE_RATING = ratingRule('3|three', 'average|ok|okay|decent|mediocre|fair|fairly');
const HIGH_RATING = ratingRule('5|five', 'high|highly|excellent|great|top|good|best');
const RATINGS = {
  low: LOW_RATING, '1 out of 5': LOW_RATING,
  average: AVERAGE_RATING, '3 out of 5': AVERAGE_RATING,
  high: HIGH_RATING, '5 out of 5': HIGH_RATING,
};

const FAMILY = 'child|children|childrens|kid|kids|family|families|familys';
const NOT = 'not|non|isnt|arent|no|never|doesnt|dont|wont|without|cannot|cant|unsuitable|nor|unfriendly|un|lacks';
const FOR_FAMILIES = anyOf(`(?:${FAMILY}) friendly`, `(?:${FAMILY}) … (?:welcome|friendly|oriented)`,
  `(?:for|to|suit|suits|welcomes|family) … (?:${FAMILY})`);
const NOT_FOR_FAMILIES = anyOf(`(?:${NOT}) … (?:${FAMILY})`, `(?:${FAMILY}) … (?:not|no|unfriendly|isnt|arent)`,
  `(?:${FAMILY}) … (?:unwelcome|prohibited)`, 'adults?');

const escaped = (value) => value.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
const literal = (value) => anyOf(escaped(normalise(value)));
const entityRules = new Map(ENTITIES.map((entity) => [entity, literal(entity)]));
const byLength = (a, b) => b.length - a.length;

/** Whether a normalised text realises one slot of its prompt. */
function realises(text, slot, value) {
  if (slot === 'priceRange' && PRICES[value]) return PRICES[value].test(text);
  if (slot === 'customer rating' && RATINGS[value]) return RATINGS[value].test(text);
  if (slot === 'familyFriendly') {
    const negative = NOT_FOR_FAMILIES.test(text);
    return value === 'no' ? negative : !negative && FOR_FAMILIES.test(text);
  }
  if (slot === 'eatType') return anyOf(`${escaped(normalise(value))}s?`).test(text);
  return literal(value).test(text);
}

/** What a normalised text states though the prompt does not: one entry a statement. */
function inventions(text, slots) {
  const invented = [];
  const blank = (entity) => (text = text.replace(new RegExp(wholeWords(escaped(normalise(entity))), 'g'), ' # '));
  const own = ['name', 'near'].filter((slot) => slot in slots).map((slot) => slots[slot]).sort(byLength);
  own.forEach(blank);
  for (const entity of [...ENTITIES].sort(byLength)) {
    if (own.includes(entity) || !entityRules.get(entity).test(text)) continue;
    invented.push(entity);
    blank(entity); // so that "Raja Indian Cuisine" is not Indian food as well
  }
  for (const [slot, values] of Object.entries(CLOSED_SLOTS)) {
    for (const value of values) {
      const spoken = value.replace('s?', '');
      if (spoken !== normalise(slots[slot] ?? '') && anyOf(value).test(text)) invented.push(`${slot}: ${spoken}`);
    }
  }
  const states = (rules) => Object.values(rules).some((rule) => rule.test(text));
  if (!('priceRange' in slots) && states(PRICES)) invented.push('priceRange');
  if (!('customer rating' in slots) && states(RATINGS)) invented.push('customer rating');
  const family = FOR_FAMILIES.test(text) || NOT_FOR_FAMILIES.test(text);
  if (!('familyFriendly' in slots) && family) invented.push('familyFriendly');
  return invented;
}

/** The verdict on one text: {slots: count, missing: [slot…], hallucinated: [statement…], slot_error: 0…1, perfect}. */
export function judge(prompt, completion) {
  const slots = parseMeaning(prompt);
  const count = Object.keys(slots).length;
  if (count === 0) throw new Error(`no slots in the prompt ${JSON.stringify(prompt)}`);
  const text = normalise(completion);
  const missing = Object.keys(slots).filter((slot) => !realises(text, slot, slots[slot]));
  const hallucinated = inventions(text, slots);
  const perfect = missing.length === 0 && hallucinated.length === 0;
  return { slots: count, missing, hallucinated, slot_error: missing.length / count, perfect };
}

const textsOf = ({ completion, completions }) => completions ?? [completion];

/** Totals of the verdicts, one entry a prompt in order of first appearance: Map from prompt to sums. */
export function totalsByPrompt(rows) {
  const totals = new Map();
  for (const row of rows) {
    const sums = totals.get(row.prompt) ?? { texts: 0, slots: 0, missing: 0, hallucinated: 0, perfect: 0 };
    for (const text of textsOf(row)) {
      const verdict = judge(row.prompt, text);
      sums.texts += 1;
      sums.slots += verdict.slots;
      sums.missing += verdict.missing.length;
      sums.hallucinated += verdict.hallucinated.length;
      sums.perfect += Number(verdict.perfect);
    }
    totals.set(row.prompt, sums);
  }
  return totals;
}

/** The reported ratios: how each is made of a prompt's totals. */
export const RATIOS = {
  slot_error: (sums) => ({ numerator: sums.missing, denominator: sums.slots }),
  hallucinated_per_slot: (sums) => ({ numerator: sums.hallucinated, denominator: sums.slots }),
  total_error: (sums) => ({ numerator: sums.missing + sums.hallucinated, denominator: sums.slots }),
  hallucinated_per_text: (sums) => ({ numerator: sums.hallucinated, denominator: sums.texts }),
  perfect: (sums) => ({ numerator: sums.perfect, denominator: sums.texts }),
};

/** {prompts, texts, and for each of RATIOS {mean, low, high}}. */
export function summarise(rows, options) {
  const sums = [...totalsByPrompt(rows).values()];
  const texts = sums.reduce((total, each) => total + each.texts, 0);
  const ratios = Object.entries(RATIOS).map(([name, ratio]) => [name, interval(sums.map(ratio), options)]);
  return { prompts: sums.length, texts, ...Object.fromEntries(ratios) };
}

/** The same for `after` minus `before`, paired by prompt; both must hold the same prompts. */
export function compare(before, after, options) {
  const [first, second] = [totalsByPrompt(before), totalsByPrompt(after)];
  const lacking = [...first.keys()].find((prompt) => !second.has(prompt));
  if (lacking !== undefined || first.size !== second.size) {
    throw new Error(`the two files hold different prompts (${first.size} and ${second.size})`);
  }
  const prompts = [...first.keys()];
  const ratios = Object.entries(RATIOS).map(([name, ratio]) => [name, pairedInterval(
    prompts.map((prompt) => ratio(first.get(prompt))), prompts.map((prompt) => ratio(second.get(prompt))), options)]);
  return { prompts: prompts.length, ...Object.fromEntries(ratios) };
}

/** A row with `reward` or `rewards` added: − slot error. */
export function asReward(row) {
  const rewards = textsOf(row).map((text) => 0 - judge(row.prompt, text).slot_error);
  return row.completions ? { ...row, rewards } : { ...row, reward: rewards[0] };
}

function withVerdict(row) {
  if (!row.completions) return { ...row, ...judge(row.prompt, row.completion) };
  return { ...row, verdicts: row.completions.map((text) => judge(row.prompt, text)) };
}

function parseRow(line, place) {
  try {
    const row = JSON.parse(line);
    const texts = textsOf(row);
    if (typeof row.prompt !== 'string' || !texts.every((text) => typeof text === 'string')) {
      throw new Error('a row needs the strings "prompt" and "completion", or "completions"');
    }
    return row;
  } catch (error) {
    throw new Error(`${place}: ${error.message}`);
  }
}

/** Every row of a JSONL file (`-` is standard input), checked. */
export function readRows(path) {
  return readFileSync(path === '-' ? 0 : path, 'utf8').split('\n').flatMap((line, i) =>
    line.trim() === '' ? [] : [parseRow(line, `${path}:${i + 1}`)]);
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      summary: { type: 'boolean' }, against: { type: 'string' }, 'as-reward': { type: 'boolean' },
      resamples: { type: 'string', default: '2000' }, seed: { type: 'string', default: '0' },
    },
  });
  const options = { resamples: Number(values.resamples), seed: Number(values.seed) };
  const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
  if (values.summary || values.against) {
    const before = values.against ? readRows(values.against) : undefined;
    for (const path of positionals.length > 0 ? positionals : ['-']) {
      const rows = readRows(path);
      print({ file: path, ...(before ? compare(before, rows, options) : summarise(rows, options)) });
    }
    return;
  }
  let number = 0;
  for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
    number += 1;
    if (line.trim() === '') continue;
    const row = parseRow(line, `-:${number}`);
    print(values['as-reward'] ? asReward(row) : withVerdict(row));
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  process.stdout.on('error', (error) => process.exit(error.code === 'EPIPE' ? 0 : 1));
  main().catch((error) => {
    console.error(`slot-error: ${error.message}`);
    process.exit(2);
  });
}
