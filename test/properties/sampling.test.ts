import { createInterface } from 'node:readline';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { prepareData } from '../crash/runs.ts';
import { buildWholeProgram, jsonLines, type WholeProgram } from './program.ts';

let rlhf: WholeProgram;
let prompts: string;
test.before(async () => {
  rlhf = await buildWholeProgram();
  await prepareData(rlhf);
  prompts = Array.from(
    { length: 13 },
    (_, i) => `${JSON.stringify({ prompt: 'a cat saw a dog and'.slice(0, 1 + ((i * 5) % 19)), id: i })}\n`,
  ).join('');
});
test.after(() => rlhf.remove());

const SAMPLE = ['sample', '--model', 'base', '--max-new-tokens', '12', '--k', '3', '--seed', '4', '--quiet'];

test('answers do not depend on how many are decoded side by side', async () => {
  const outputs: string[] = [];
  for (const size of ['1', '5', '64']) outputs.push(await rlhf.succeed([...SAMPLE, '--batch-size', size], prompts));
  assert.is(outputs[1], outputs[0]);
  assert.is(outputs[2], outputs[0]);
  assert.is.not(
    await rlhf.succeed([...SAMPLE.slice(0, -3), '--seed', '5', '--quiet'], prompts),
    outputs[0],
    'another seed',
  );
  const answers = jsonLines(outputs[0]).flatMap((row) => row.completions);
  assert.ok(new Set(answers).size > 30, 'rows and samples differ');
});

test('sampling and scoring stay within --memory, with the same results, or say what they need', async () => {
  await rlhf.succeed(['train-rm', '--model', 'base', '--data', 'rankings.jsonl', '--max-steps', '1', '--out', 'reward', '--quiet']);
  const answers = await rlhf.succeed(SAMPLE, prompts);
  const least = async (command: string[], input: string): Promise<number> => {
    const { code, stderr } = await rlhf.run([...command, '--memory', '1K'], input);
    assert.is(code, 2, stderr);
    const [, kib] = /^rlhf: error: the model and its smallest pass take (\d+) KiB of device memory, but 1 KiB are allowed$/m.exec(stderr) ?? [];
    assert.ok(kib, stderr);
    return Number(kib);
  };
  for (const [command, input] of [[SAMPLE, prompts], [['score', '--model', 'reward', '--truncate', '--quiet'], answers], [['logprobs', '--model', 'base', '--truncate', '--quiet'], answers]] as const) {
    const expected = await rlhf.succeed([...command], input);
    const kib = await least([...command], input);
    assert.is(await rlhf.succeed([...command, '--memory', `${kib}K`], input), expected, command[0]);
  }
  // More side by side than the device can have: as many as it can.
  assert.is(await rlhf.succeed([...SAMPLE, '--batch-size', '1000000'], prompts), answers);
});

test('a writer that waits for each answer before it writes the next row gets them, the same as all at once', async () => {
  const rows = prompts.split('\n').filter(Boolean).slice(0, 4).map((row) => JSON.stringify({ ...JSON.parse(row), completion: 'a cat' }));
  const LOGPROBS = ['logprobs', '--model', 'base', '--quiet'];
  for (const command of [SAMPLE, LOGPROBS]) {
    const expected = await rlhf.succeed(command, `${rows.join('\n')}\n`);
    const child = rlhf.start(command);
    const late = setTimeout(() => child.kill('SIGKILL'), 60_000);
    const answers = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
    const lines: string[] = [];
    for (const row of rows) {
      child.stdin!.write(`${row}\n`);
      const answer = await answers.next();
      assert.not.ok(answer.done, `${command[0]}: no answer to row ${lines.length}`);
      lines.push(answer.value);
    }
    child.stdin!.end();
    assert.ok((await answers.next()).done);
    clearTimeout(late);
    assert.is(`${lines.join('\n')}\n`, expected);
  }
});

test('the shards together are the unsharded output, row for row', async () => {
  const whole = (await rlhf.succeed(SAMPLE, prompts)).trimEnd().split('\n');
  assert.is(whole.length, 13);
  const parts: string[][] = [];
  for (let i = 0; i < 3; i++)
    parts.push((await rlhf.succeed([...SAMPLE, '--shard', `${i}/3`], prompts)).trimEnd().split('\n'));
  assert.equal(
    whole.map((_, j) => parts[j % 3][Math.floor(j / 3)]),
    whole,
  );
  assert.is(
    parts.reduce((sum, part) => sum + part.length, 0),
    whole.length,
  );
});

test('log-probabilities and their sums do not depend on the rows beside', async () => {
  const rows = Array.from({ length: 11 }, (_, i) =>
    JSON.stringify({ prompt: 'a cat saw a dog'.slice(0, 1 + i), completions: [' and', 'x', ' a bird sat'.slice(i)] }),
  );
  const LOGPROBS = ['logprobs', '--model', 'base', '--quiet'];
  const whole = (await rlhf.succeed(LOGPROBS, `${rows.join('\n')}\n`)).trimEnd().split('\n');
  const single = (await rlhf.succeed([...LOGPROBS, '--batch-size', '1'], `${[...rows].reverse().join('\n')}\n`))
    .trimEnd()
    .split('\n');
  assert.equal(single.reverse(), whole);
});

/** Σ (observed − expected)² / expected over the first tokens, those expected less than 5 times taken together. */
function chiSquare(
  observed: Map<string, number>,
  probabilities: Map<string, number>,
  count: number,
): { statistic: number; degrees: number } {
  let [statistic, degrees, rareSeen, rareExpected] = [0, -1, count, count];
  for (const [token, p] of probabilities) {
    const expected = p * count;
    if (expected < 5) continue;
    const seen = observed.get(token) ?? 0;
    statistic += (seen - expected) ** 2 / expected;
    rareSeen -= seen;
    rareExpected -= expected;
    degrees++;
  }
  if (rareExpected < 1) return { statistic, degrees };
  return { statistic: statistic + (rareSeen - rareExpected) ** 2 / rareExpected, degrees: degrees + 1 };
}

test('the frequencies of sampled tokens follow the softmax, in row 0 as in all others (chi-square)', async () => {
  const letters = [...' abcdefghijklmnopqrstuvwxyz'];
  const row = { prompt: 'a cat', completions: letters, finish_reason: letters.map(() => 'length') };
  const [{ logprobs }] = jsonLines(
    await rlhf.succeed(['logprobs', '--model', 'base', '--quiet'], `${JSON.stringify(row)}\n`),
  );
  const softmax = new Map(letters.map((letter, i) => [letter, Math.exp(logprobs[i][0])]));
  const count = 3000;
  const one = ['sample', '--model', 'base', '--max-new-tokens', '1', '--batch-size', '500', '--quiet'];
  const first = jsonLines(
    await rlhf.succeed([...one, '--k', String(count)], `${JSON.stringify({ prompt: 'a cat' })}\n`),
  )[0].completions as string[];
  const many = jsonLines(await rlhf.succeed(one, `${JSON.stringify({ prompt: 'a cat' })}\n`.repeat(count))).map(
    (r) => r.completion as string,
  );
  for (const [name, drawn] of Object.entries({ 'samples of row 0': first, 'rows of one sample': many })) {
    assert.is(drawn.length, count);
    const observed = new Map<string, number>();
    for (const token of drawn) observed.set(token, (observed.get(token) ?? 0) + 1);
    const { statistic, degrees } = chiSquare(observed, softmax, count);
    assert.ok(degrees >= 3, `${degrees} degrees of freedom`);
    // A right sampler passes mean + 4.5 standard deviations with 1 seed in some 10,000; the seed is fixed.
    assert.ok(
      statistic < degrees + 4.5 * Math.sqrt(2 * degrees),
      `${name}: χ² = ${statistic} with ${degrees} degrees of freedom`,
    );
  }
  assert.is.not(first.slice(0, 50).join(), many.slice(0, 50).join(), 'sample index and row give different numbers');
});

test.run();
