import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { reportWithIntervals } from '../../src/stages/eval_reward_model.ts';
import type { EvalSettings } from '../../src/options.ts';
import { bootstrap, ratio } from '../../src/train/bootstrap.ts';
import { rankingReport, type ScoredRanking } from '../../src/train/ranking_metrics.ts';
import { RandomStream } from '../../src/train/random.ts';
import { prepareData, PRETRAIN } from '../crash/runs.ts';
import { buildWholeProgram, jsonLines, type WholeProgram } from '../properties/program.ts';

// Reports are compared with the same numbers made by `score`, `sample` and `logprobs` on the same rows.
let rlhf: WholeProgram;
const QUIET = ['--quiet', '--bootstrap', '200'];
test.before(async () => {
  rlhf = await buildWholeProgram();
  await prepareData(rlhf);
  letters('letters');
  const animals = ['cat', 'dog', 'bird'];
  rlhf.rows('demonstrations.jsonl', Array.from({ length: 16 }, (_, i) => ({ prompt: `who saw a ${animals[i % 3]}`, completion: ` a ${animals[(i + 1) % 3]} did` })));
  await rlhf.succeed([...PRETRAIN, '--tokenizer', 'letters', '--out', 'base', '--overwrite', '--lr', '0.003', '--quiet']);
  await rlhf.succeed(['train-rm', '--model', 'base', '--data', 'rankings.jsonl', '--out', 'rm', '--lr', '0.003', '--epochs', '4', '--quiet']);
  await rlhf.succeed(['train-sft', '--model', 'base', '--data', 'demonstrations.jsonl', '--out', 'sft', '--lr', '0.003', '--epochs', '2', '--quiet']);
});
test.after(() => rlhf.remove());

/** A tokenizer of single letters, digits and the space: a text has one row of ids, so what is sampled survives being written. */
function letters(name: string): void {
  const symbols = ['<|eos|>', ...'Ġabcdefghijklmnopqrstuvwxyz0123456789'];
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  mkdirSync(rlhf.path(name));
  writeFileSync(rlhf.path(name, 'tokenizer.json'), JSON.stringify({
    version: '1.0', truncation: null, padding: null, normalizer: null, post_processor: null,
    added_tokens: [{ id: 0, content: '<|eos|>', single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }],
    pre_tokenizer: byteLevel,
    decoder: byteLevel,
    model: { type: 'BPE', unk_token: null, byte_fallback: false, merges: [], vocab: Object.fromEntries(symbols.map((text, id) => [text, id])) },
  }));
  writeFileSync(rlhf.path(name, 'tokenizer_config.json'), JSON.stringify({ tokenizer_class: 'PreTrainedTokenizerFast', eos_token: '<|eos|>' }));
}

const report = async (args: string[], input?: string): Promise<Record<string, any>> =>
  JSON.parse(await rlhf.succeed(['eval', ...args, ...QUIET], input));
const mean = (list: readonly number[]): number => list.reduce((sum, x) => sum + x, 0) / list.length;
const close = (actual: number, expected: number, message: string, tolerance = 1e-5): void =>
  assert.ok(Math.abs(actual - expected) <= tolerance * Math.max(1, Math.abs(expected)), `${message}: ${actual}, not ${expected}`);
const within = (value: number, [low, high]: [number, number]): boolean => low <= value && value <= high;

test('the interval of a mean has the width that its standard error says, and covers the true mean as often as it should', () => {
  let covered = 0;
  const widths: number[] = [];
  const TRIALS = 200;
  for (let trial = 0; trial < TRIALS; trial++) {
    const random = new RandomStream(trial, 'initialise');
    const values = Array.from({ length: 60 }, () => 3 + 2 * random.normal());
    const { mean: found } = bootstrap(60, { mean: ratio(values) }, { resamples: 200, seed: trial });
    close(found.value, mean(values), 'value');
    if (within(3, found.interval)) covered++;
    widths.push(found.interval[1] - found.interval[0]);
  }
  close(mean(widths), 2 * 1.96 * 2 / Math.sqrt(60), 'width', 0.06);
  // 95 % less what the percentile interval of 60 values misses; the count's own standard deviation is 1.6 %.
  assert.ok(covered / TRIALS > 0.89 && covered / TRIALS < 0.99, `covered ${covered} of ${TRIALS}`);
});

test('paired statistics see the same resamples; resamples on which a statistic has no value are left out', () => {
  const a = [1, 5, 2, 8];
  const { difference, rare } = bootstrap(4, { difference: ratio(a.map((x) => x - (x - 0.5))), rare: ratio([0, 0, 3, 0], [0, 0, 1, 0]) }, { resamples: 50, seed: 1 });
  assert.equal(difference, { value: 0.5, interval: [0.5, 0.5] });
  assert.equal(rare, { value: 3, interval: [3, 3] });
});

test('sums by prompt give the ranking report, to rounding', () => {
  const random = new RandomStream(7, 'initialise');
  const scored: ScoredRanking[] = Array.from({ length: 40 }, (_, i) => ({
    rewards: Array.from({ length: 2 + (i % 4) }, () => random.normal()),
    ranks: Array.from({ length: 2 + (i % 4) }, () => 1 + random.below(4)),
    ...(i % 4 === 0 ? { margin: 0.3 } : {}),
  }));
  const expected = rankingReport(scored) as unknown as Record<string, any>;
  const found = reportWithIntervals(scored, { bootstrap: 100, seed: 0 } as EvalSettings) as Record<string, any>;
  for (const name of ['loss', 'accuracy', 'margin', 'mean_reward', 'std_reward', 'calibration_error']) {
    close(found[name], expected[name], name, 1e-12);
    assert.ok(found[`${name}_interval`][0] < found[`${name}_interval`][1], `${name} has an interval`);
    if (name !== 'calibration_error') assert.ok(within(found[name], found[`${name}_interval`]), name); // resampling biases that one upwards
  }
  for (const [k, { accuracy, pairs }] of Object.entries(expected.accuracy_by_k as Record<string, any>)) {
    close(found.accuracy_by_k[k].accuracy, accuracy, `K ${k}`, 1e-12);
    assert.is(found.accuracy_by_k[k].pairs, pairs);
  }
  assert.is(found.accuracy_by_rank_gap.length, expected.accuracy_by_rank_gap.length);
  (expected.accuracy_by_rank_gap as any[]).forEach((gap, i) => {
    close(found.accuracy_by_rank_gap[i].accuracy, gap.accuracy, `gap ${i}`, 1e-12);
    assert.is(found.accuracy_by_rank_gap[i].pairs, gap.pairs);
  });
});

test('eval rm reports what score gives the same completions', async () => {
  const scored = jsonLines(await rlhf.succeed(['score', '--model', 'rm', '--data', 'rankings.jsonl', '--quiet']))
    .map(({ rewards, ranks }) => ({ rewards, ranks }) as ScoredRanking);
  const expected = rankingReport(scored);
  const found = await report(['rm', '--model', 'rm', '--data', 'rankings.jsonl', '--batch-size', '5']);
  assert.is(found.command, 'eval rm');
  for (const name of ['pairs', 'prompts', 'loss', 'accuracy', 'mean_reward'] as const) close(found[name], expected[name], name);
  assert.ok(found.accuracy > 0.6, `trained on these rows: ${found.accuracy}`);
  assert.equal(await report(['rm', '--model', 'rm', '--data', 'rankings.jsonl']), found, 'the batch size changes nothing');
});

test('eval perplexity of demonstrations is the mean over their response tokens, EOS included', async () => {
  const lists = jsonLines(await rlhf.succeed(['logprobs', '--model', 'sft', '--data', 'demonstrations.jsonl', '--quiet'])).map((r) => r.logprobs as number[]);
  const found = await report(['perplexity', '--model', 'sft', '--data', 'demonstrations.jsonl']);
  close(found.loss, -mean(lists.flat()), 'loss');
  close(found.perplexity, Math.exp(found.loss), 'perplexity');
  assert.is(found.tokens, lists.flat().length);
  assert.is(found.rows, lists.length);
  assert.ok(within(found.loss, found.loss_interval) && found.loss_interval[0] < found.loss_interval[1]);
});

test('eval perplexity of text is pretraining’s held-out loss', async () => {
  const metrics = await rlhf.succeed(['pretrain', '--model', 'base', '--data', 'text.jsonl', '--eval-data', 'held-out.jsonl',
    '--out', 'again', '--lr', '0', '--max-steps', '1', '--eval-every', '1', '--quiet']);
  const found = await report(['perplexity', '--model', 'base', '--data', 'held-out.jsonl']);
  close(found.loss, JSON.parse(metrics.trim().split('\n').at(-1)!).eval_loss, 'loss');
});

test('eval policy: a policy against itself has KL 0 and wins half of the time', async () => {
  const found = await report(['policy', '--model', 'sft', '--baseline', 'sft', '--reward', 'rm', '--data', 'prompts.jsonl', '--max-new-tokens', '10']);
  assert.is(found.kl, 0);
  assert.equal(found.kl_interval, [0, 0]);
  assert.is(found.win_rate, 0.5);
  assert.is(found.reward_difference, 0);
  assert.is(found.reward, found.baseline_reward);
});

test('a single prompt or row has no interval', async () => {
  const first = readFileSync(rlhf.path('prompts.jsonl'), 'utf8').split('\n', 1)[0]!;
  rlhf.rows('one.jsonl', [JSON.parse(first)]);
  const found = await report(['policy', '--model', 'sft', '--data', 'one.jsonl', '--max-new-tokens', '4']);
  assert.ok(found.length > 0);
  assert.equal(Object.keys(found).filter((name) => name.endsWith('_interval')), []);
});

test('sample leaves nothing that was said of answers which it replaces; other fields stay', async () => {
  const said = { ranks: [1, 2], rewards: [0, 1], tokens: [[1]], sum: [-1], note: 'mine' };
  const rows = [{ prompt: 'a', completions: ['b', 'c'], ...said }, { prompt: 'a', ...said }];
  const answers = jsonLines(await rlhf.succeed(['sample', '--model', 'base', '--k', '2', '--max-new-tokens', '2', '--quiet'], rows.map((row) => JSON.stringify(row)).join('\n')));
  assert.equal(answers.map((row) => Object.keys(row)), [['prompt', 'completions', 'note', 'finish_reason'],
    ['prompt', 'ranks', 'rewards', 'tokens', 'sum', 'note', 'completions', 'finish_reason']]);
});

test('eval policy measures the answers that sample draws', async () => {
  const answer = async (model: string, more: string[] = []): Promise<string> =>
    rlhf.succeed(['sample', '--model', model, '--data', 'prompts.jsonl', '--max-new-tokens', '10', '--quiet', ...more]);
  const rewardsOf = async (rows: string): Promise<number[]> => jsonLines(await rlhf.succeed(['score', '--model', 'rm', '--quiet'], rows)).map((r) => r.reward);
  const sums = async (model: string, rows: string) => jsonLines(await rlhf.succeed(['logprobs', '--model', model, '--quiet'], rows));
  const compared = ['policy', '--model', 'sft', '--baseline', 'base', '--reward', 'rm', '--data', 'prompts.jsonl', '--max-new-tokens', '10'];

  const [own, theirs] = [await answer('sft'), await answer('base')];
  const [ours, base] = [await rewardsOf(own), await rewardsOf(theirs)];
  const found = await report(compared);
  const kl = (await sums('sft', own)).map((r, i, all) => ({ r, i, all }));
  const reference = await sums('base', own);
  close(found.reward, mean(ours), 'reward');
  close(found.baseline_reward, mean(base), 'baseline reward');
  close(found.win_rate, mean(ours.map((r, i) => (r > base[i] ? 1 : r === base[i] ? 0.5 : 0))), 'win rate');
  close(found.kl, mean(kl.map(({ r, i }) => r.sum - reference[i].sum)), 'KL', 1e-4);
  close(found.length, mean(kl.map(({ r }) => r.tokens.length)), 'length');
  close(found.frac_eos, mean(jsonLines(own).map((r) => Number(r.finish_reason === 'stop'))), 'frac_eos');

  const greedy = await report([...compared, '--greedy']);
  close(greedy.reward, mean(await rewardsOf(await answer('sft', ['--greedy']))), 'greedy reward');
  close(greedy.kl, found.kl, 'the KL is that of the distribution, however answers are decoded');
});

test('eval policy rewards the text before a stop text', async () => {
  const rows = await rlhf.succeed(['sample', '--model', 'base', '--data', 'prompts.jsonl', '--max-new-tokens', '12', '--stop', 'a', '--quiet']);
  assert.ok(jsonLines(rows).some((r) => r.finish_reason === 'stop'));
  const rewards = jsonLines(await rlhf.succeed(['score', '--model', 'rm', '--quiet'], rows)).map((r) => r.reward as number);
  const found = await report(['policy', '--model', 'base', '--reward', 'rm', '--data', 'prompts.jsonl', '--max-new-tokens', '12', '--stop', 'a']);
  close(found.reward, mean(rewards), 'reward');
  assert.is(found.kl, undefined);
  assert.is(found.win_rate, undefined);
});

test('eval multiple-choice takes the likelier choice, by sum, token and byte', async () => {
  const rows = Array.from({ length: 9 }, (_, i) => ({ prompt: `a cat saw ${i}`, choices: [' a dog', ' the bird sat down', 'zz', ' and'].slice(0, 2 + (i % 3)), answer: i % 2 }));
  const asked = rows.map(({ prompt, choices }) => JSON.stringify({ prompt, completions: choices, finish_reason: choices.map(() => 'length') }));
  const lists = jsonLines(await rlhf.succeed(['logprobs', '--model', 'base', '--quiet'], `${asked.join('\n')}\n`)).map((r) => r.logprobs as number[][]);
  const accuracy = (value: (logprobs: number[], text: string) => number): number => mean(rows.map(({ choices, answer }, i) => {
    const values = choices.map((text, c) => value(lists[i][c], text));
    return Number(values.indexOf(Math.max(...values)) === answer);
  }));
  const sum = (list: number[]): number => list.reduce((s, x) => s + x, 0);
  const found = await report(['multiple-choice', '--model', 'base', '--data', rlhf.rows('choices.jsonl', rows)]);
  close(found.accuracy, accuracy(sum), 'accuracy');
  close(found.accuracy_per_token, accuracy((list) => sum(list) / list.length), 'per token');
  close(found.accuracy_per_byte, accuracy((list, text) => sum(list) / Buffer.byteLength(text)), 'per byte');
  close(found.chance, (3 / 2 + 3 / 3 + 3 / 4) / 9, 'chance');
});

test('bad rows are named with file and line, and end it with 2', async () => {
  const refused = async (kind: string, model: string, rows: unknown[], message: RegExp): Promise<void> => {
    const { code, stdout, stderr } = await rlhf.run(['eval', kind, '--model', model, '--data', rlhf.rows('bad.jsonl', rows), '--quiet']);
    assert.is(code, 2, stderr);
    assert.is(stdout, '');
    assert.match(stderr, message);
  };
  const good = { prompt: 'a', choices: ['b', 'c'], answer: 0 };
  await refused('multiple-choice', 'base', [good, { ...good, answer: 2 }], /bad\.jsonl:2: "answer" must be/);
  await refused('multiple-choice', 'base', [{ ...good, choices: ['b'] }], /bad\.jsonl:1: "choices" must be a list of two/);
  await refused('multiple-choice', 'base', [{ ...good, choices: ['b', 3] }], /bad\.jsonl:1: "choices\[1\]"/);
  await refused('perplexity', 'base', [{ text: 'a' }, { content: 'a' }], /bad\.jsonl:2: .*"text"/);
  await refused('rm', 'rm', [{ prompt: 'a', completions: ['b', 'c'], ranks: [1] }], /bad\.jsonl:1: "ranks" has 1/);
  await refused('rm', 'rm', [{ prompt: 'a', completions: ['b', 'c'], ranks: [2, 2] }], /all ranks are ties/);
  await refused('policy', 'base', [{ prompt: 3 }], /bad\.jsonl:1: "prompt"/);
  await refused('rm', 'base', [{ prompt: 'a', chosen: 'b', rejected: 'c' }], /is a language model/);
});

test('a dry run reads the rows and stops', async () => {
  const out = await rlhf.succeed(['eval', 'policy', '--model', 'sft', '--data', 'prompts.jsonl', '--dry-run', '--quiet']);
  assert.match(out, /"prompts":7/);
  assert.not.match(out, /"length":/);
});

test.run();
