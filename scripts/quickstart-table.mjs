#!/usr/bin/env node
// The closing table of scripts/quickstart.sh, from the files that it left in DIR/eval.
//
//   node scripts/quickstart-table.mjs DIR [--json table.json]     the table, what it shows, a few answers side by side
//   node scripts/quickstart-table.mjs DIR… --markdown             one table with the policies of several folders
//
// Intervals are 95 % bootstrap intervals over prompts. A cell without one is a single number or has nothing to vary.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { asUnits, interval } from './bootstrap.mjs';
import { RATIOS, compare, readRows, summarise } from './slot-error.mjs';

const POLICIES = [
  ['sft', 'SFT'],
  ['ppo', 'PPO, γ 0'],
  ['ppo-ptx', 'PPO, γ 1'],
];
const COLUMNS = [
  ['reward', 'reward', 2], ['kl', 'KL (nats)', 2], ['slot_error', 'slots missing', 3],
  ['hallucinated_per_slot', 'slots made up', 3], ['total_error', 'sum', 3],
  ['sampled_slot_error', 'missing at T = 1', 3], ['prose_loss', 'loss on prose', 3], ['length', 'tokens', 1],
];
const MOST_KL = 6;

/** Reward of each row, one unit a prompt. */
export const rewardUnits = (rows) => asUnits(rows.map(({ reward }) => reward));

/**
 * Σ_t log π(y_t) − log π_ref(y_t) of each sampled answer, from `rlhf logprobs` with the policy and with the reference:
 * its mean estimates KL(π ‖ π_ref) in nats a response.
 */
export function klUnits(own, reference) {
  if (own.length !== reference.length) {
    throw new Error(`${own.length} rows against ${reference.length} of the reference`);
  }
  return asUnits(own.map(({ prompt, sum }, i) => {
    if (prompt !== reference[i].prompt) throw new Error('the log-probabilities are of different rows');
    return sum - reference[i].sum;
  }));
}

/** Tokens of each answer, EOS included. */
export const lengthUnits = (rows) => asUnits(rows.map(({ tokens }) => tokens.length));

/** Strict pairs of a scored ranking in the right order; equal rewards count one half. One unit a prompt. */
export function pairUnits(rows) {
  return rows.map(({ ranks, rewards }) => {
    let numerator = 0;
    let denominator = 0;
    for (let i = 0; i < ranks.length; i++) {
      for (let j = 0; j < ranks.length; j++) {
        if (ranks[i] >= ranks[j]) continue;
        denominator += 1;
        numerator += rewards[i] === rewards[j] ? 0.5 : Number(rewards[i] > rewards[j]);
      }
    }
    return { numerator, denominator };
  });
}

/** The report of `rlhf eval perplexity`: `loss`, in nats a token, and where given its `loss_interval`. */
export function proseLoss([report]) {
  if (typeof report?.loss !== 'number') throw new Error('the report on perplexity has no "loss"');
  const [low, high] = report.loss_interval ?? [];
  return { mean: report.loss, low, high };
}

/** `0.134 [0.121, 0.147]`, or only the number where there is no interval; – for nothing. */
export function cell(value, digits) {
  if (value === undefined) return '–';
  const text = (number) => number.toFixed(digits).replace(/^-(?=[0.]*$)/, '').replace('-', '−');
  return value.low === undefined ? text(value.mean) : `${text(value.mean)} [${text(value.low)}, ${text(value.high)}]`;
}

/** What is measured of each row of the table, in order: [{name, values, greedy?}]. */
export function measure(folder, options) {
  const file = (name) => join(folder, 'eval', name);
  const rows = (name) => (existsSync(file(name)) ? readRows(file(name)) : undefined);
  const slots = (answers) => {
    const summary = summarise(answers, options);
    return Object.fromEntries(Object.keys(RATIOS).map((ratio) => [ratio, summary[ratio]]));
  };
  const measured = [{ name: 'human references', values: slots(readRows(file('references.jsonl'))) }];
  for (const [key, name] of POLICIES) {
    const greedy = rows(`${key}-greedy.jsonl`);
    if (!greedy) continue;
    const sampled = readRows(file(`${key}-sampled.jsonl`));
    const [own, reference] = ['', '-sft'].map((suffix) => readObjects(file(`${key}-logprobs${suffix}.jsonl`)));
    const values = {
      ...slots(greedy),
      sampled_slot_error: summarise(sampled, options).slot_error,
      reward: interval(rewardUnits(sampled), options),
      kl: interval(klUnits(own, reference), options),
      length: interval(lengthUnits(own), options),
      prose_loss: proseLoss(readObjects(file(`${key}-prose.jsonl`))),
    };
    measured.push({ key, name, values, greedy });
    if (key === 'sft') measured.push(...[4, 16].flatMap((n) => bestOfN(rows(`sft-best-of-${n}.jsonl`), n)));
  }
  return measured;

  function bestOfN(answers, n) {
    if (!answers) return [];
    const { slot_error: sampled } = summarise(answers, options);
    const reward = interval(rewardUnits(answers), options);
    return [{ name: `SFT, best of ${n}`, values: { reward, sampled_slot_error: sampled } }];
  }
}

/** The measurements as a table of texts. */
export function tableOf(measured) {
  return {
    columns: ['model', ...COLUMNS.map(([, title]) => title)],
    rows: measured.map(({ name, values }) => [name, ...COLUMNS.map(([key, , digits]) => cell(values[key], digits))]),
  };
}

/**
 * What the job is meant to show, each with whether it does: [{text, met}]. Differences are of greedy answers, paired by
 * prompt.
 */
export function acceptance(measured, options) {
  const of = (key) => measured.find((each) => each.key === key);
  const sft = of('sft');
  const checks = [];
  for (const policy of [of('ppo'), of('ppo-ptx')].filter(Boolean)) {
    const { slot_error: missing, total_error: sum } = compare(sft.greedy, policy.greedy, options);
    checks.push(
      { text: `${policy.name}: missing slots fall (${cell(missing, 3)} against SFT)`, met: missing.high < 0 },
      { text: `${policy.name}: missing and made-up slots together do not rise (${cell(sum, 3)})`, met: sum.mean <= 0 },
      { text: `${policy.name}: KL at most ${MOST_KL} nats (${cell(policy.values.kl, 2)})`,
        met: policy.values.kl.mean <= MOST_KL },
    );
  }
  if (of('ppo') && of('ppo-ptx')) {
    const [plain, mixed] = [of('ppo'), of('ppo-ptx')].map(({ values }) => values.prose_loss.mean);
    checks.push({ text: `γ 1 ends with less loss on prose than γ 0 (${mixed.toFixed(3)}, ${plain.toFixed(3)})`,
      met: mixed < plain });
  }
  return checks;
}

/** Columns aligned for a terminal, cut into several blocks where they do not fit its width. */
export function plainTable({ columns, rows }, width = 120) {
  const lines = [columns, ...rows];
  const widths = columns.map((_, c) => Math.max(...lines.map((line) => [...line[c]].length)));
  const blocks = [];
  for (let begin = 1; begin < columns.length; ) {
    let end = begin;
    for (let used = widths[0]; end < columns.length && (end === begin || used + 2 + widths[end] <= width); end++) {
      used += 2 + widths[end];
    }
    const shown = [0, ...Array.from({ length: end - begin }, (_, i) => begin + i)];
    const padded = (line, c) => line[c] + ' '.repeat(widths[c] - [...line[c]].length);
    blocks.push(lines.map((line) => shown.map((c) => padded(line, c)).join('  ').trimEnd()).join('\n'));
    begin = end;
  }
  return blocks.join('\n\n');
}

export function markdownTable({ columns, rows }) {
  const line = (cells) => `| ${cells.map((each) => each.replaceAll('|', '\\|')).join(' | ')} |`;
  return [line(columns), line(columns.map(() => '---')), ...rows.map(line)].join('\n');
}

function readObjects(path) {
  return readFileSync(path, 'utf8').split('\n').filter((line) => line.trim() !== '').map((line) => JSON.parse(line));
}

/** Prompts where the policies' greedy answers differ, evenly spread over the file. */
export function sideBySide(measured, count = 3) {
  const policies = measured.filter(({ greedy }) => greedy);
  const [first, ...others] = policies.map(({ greedy }) => greedy);
  const different = first.flatMap((row, i) =>
    others.some((rows) => rows[i].completion !== row.completion) ? [i] : []);
  const step = Math.max(1, Math.floor(different.length / count));
  return different.filter((_, i) => i % step === 0).slice(0, count).map((i) => ({
    prompt: first[i].prompt.trim(),
    answers: policies.map(({ name, greedy }) => ({ name, text: greedy[i].completion.trim() })),
  }));
}

function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      json: { type: 'string' }, markdown: { type: 'boolean' }, resamples: { type: 'string', default: '2000' },
    },
  });
  if (positionals.length === 0) throw new Error('usage: quickstart-table.mjs DIR… [--json FILE | --markdown]');
  const options = { resamples: Number(values.resamples) };
  if (values.markdown) {
    const all = positionals.flatMap((folder) => measure(folder, options)
      .filter(({ key }) => key !== undefined)
      .map((each) => ({ ...each, name: `${each.name} (${basename(resolve(folder))})` })));
    console.log(markdownTable(tableOf(all)));
    return;
  }
  const [folder] = positionals;
  const measured = measure(folder, options);
  const table = tableOf(measured);
  const ranked = readObjects(join(folder, 'eval', 'rm-held-out.jsonl'));
  const accuracy = interval(pairUnits(ranked), options);
  const notes = [
    `Reward model: ${cell(accuracy, 3)} of the strict pairs of ${ranked.length} held-out rankings in people's order.`,
    `${measured.find(({ key }) => key === 'sft').greedy.length} prompts that no stage has seen. Slots of greedy ` +
      'answers (best of n: sampled); reward, KL to the SFT model and tokens of answers sampled at temperature 1. ' +
      'Brackets: 95 % bootstrap intervals over prompts.',
  ];
  console.log(`${plainTable(table, process.stdout.columns)}\n\n${notes.join('\n')}\n`);
  const checks = acceptance(measured, options);
  for (const { text, met } of checks) console.log(`${met ? 'yes' : 'NO '}  ${text}`);
  for (const { prompt, answers } of sideBySide(measured)) {
    console.log(`\n${prompt}\n${answers.map(({ name, text }) => `  ${name}: ${text}`).join('\n')}`);
  }
  if (values.json) {
    const told = checks.map(({ text, met }) => `${met ? 'yes' : 'no'}: ${text}`);
    const shown = { title: 'Closing table', ...table, notes: [...notes, ...told] };
    writeFileSync(values.json, `${JSON.stringify(shown, null, 2)}\n`);
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  try {
    main();
  } catch (error) {
    console.error(`quickstart-table: ${error.message}`);
    process.exit(2);
  }
}
