import { cpSync, existsSync, readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { openModel } from '../../src/files/model_folder.ts';
import { writeSafetensors } from '../../src/files/safetensors.ts';
import { closeAfterTests, halfTest, openForTests } from '../gpu/device.ts';
import { prepareData } from '../crash/runs.ts';
import { buildWholeProgram, jsonLines, metricsOf, type WholeProgram } from '../properties/program.ts';

let rlhf: WholeProgram;
let prompts: string;
await openForTests(); // to know what the device can do: the program opens its own
test.before(async () => {
  rlhf = await buildWholeProgram();
  await prepareData(rlhf);
  prompts = Array.from({ length: 9 }, (_, i) => `${JSON.stringify({ prompt: 'a cat saw a dog and'.slice(0, 1 + ((i * 5) % 19)) })}\n`).join('');
});
test.after(() => rlhf.remove());
test.after(closeAfterTests);

const F16 = ['--dtype', 'f16', '--quiet'];
const SFT = ['train-sft', '--model', 'base', '--data', 'demonstrations.jsonl', '--batch-size', '4', '--epochs', '4', '--lr', '0.003', '--weight-decay', '0.1'];
const losses = (run: string): number[] => metricsOf(rlhf.path(run)).map((m) => m.loss as number);
const weightsOf = (run: string, ...part: string[]): Buffer => readFileSync(rlhf.path(run, ...part, 'model.safetensors'));

halfTest('twenty steps of train-sft in f16 follow the losses in f32; the model is saved in f32', async () => {
  await rlhf.succeed([...SFT, '--out', 'full', '--quiet']);
  await rlhf.succeed([...SFT, '--out', 'half', ...F16]);
  const [full, half] = [losses('full'), losses('half')];
  assert.is(full.length, 20);
  assert.ok(full[19] < 0.9 * full[0], `something is learnt: ${full}`);
  // Tenfold what one forward pass may be off by in so small a model.
  full.forEach((loss, i) => assert.ok(Math.abs(half[i] / loss - 1) < 0.01, `step ${i + 1}: ${half[i]}, not ${loss}`));
  assert.not.equal(half, full);
  assert.is(openModel(rlhf.path('half')).dtype, 'F32');
  assert.is(JSON.parse(readFileSync(rlhf.path('half', 'rlhf.json'), 'utf8')).settings.dtype, 'f16');
});

halfTest('a run in f16 that was stopped and resumed equals the one that was not; another dtype is refused', async () => {
  const [stop, go] = [['--max-steps', '7'], ['--resume']].map((more) => [...SFT, '--out', 'resumed', ...more]);
  await rlhf.succeed([...stop, ...F16]);
  const { code, stderr } = await rlhf.run([...go, '--quiet']);
  assert.is(code, 2);
  assert.match(stderr, /--dtype/);
  await rlhf.succeed([...go, ...F16]);
  assert.equal(losses('resumed'), losses('half'));
  assert.ok(weightsOf('resumed').equals(weightsOf('half')));
});

halfTest('answers and log-probabilities in f16 do not depend on the rows beside', async () => {
  const SAMPLE = ['sample', '--model', 'base', '--max-new-tokens', '12', '--k', '3', '--seed', '4', ...F16];
  const [one, many] = [await rlhf.succeed([...SAMPLE, '--batch-size', '1'], prompts), await rlhf.succeed([...SAMPLE, '--batch-size', '64'], prompts)];
  assert.is(many, one);
  assert.ok(new Set(jsonLines(one).flatMap((row) => row.completions)).size > 20, 'rows and samples differ');
  const rows = Array.from({ length: 9 }, (_, i) => JSON.stringify({ prompt: 'a cat saw a dog'.slice(0, 1 + i), completions: [' and', 'x', ' a bird'] }));
  const LOGPROBS = ['logprobs', '--model', 'base'];
  const whole = await rlhf.succeed([...LOGPROBS, ...F16], `${rows.join('\n')}\n`);
  assert.is(await rlhf.succeed([...LOGPROBS, ...F16, '--batch-size', '1'], `${rows.join('\n')}\n`), whole);
  const sums = (text: string): number[] => jsonLines(text).flatMap((row) => row.sum as number[]);
  const [exact, rounded] = [sums(await rlhf.succeed([...LOGPROBS, '--quiet'], `${rows.join('\n')}\n`)), sums(whole)];
  assert.not.equal(rounded, exact);
  exact.forEach((x, i) => assert.ok(Math.abs(rounded[i] / x - 1) < 0.01, `${rounded[i]}, not ${x}`));
});

halfTest('reward model, scores and PPO in f16: the first minibatch has ratio 1 and no KL, and a resumed run is the same', async () => {
  await rlhf.succeed(['train-rm', '--model', 'base', '--data', 'rankings.jsonl', '--out', 'rm', '--lr', '0.003', '--epochs', '1', ...F16]);
  const scored = `${JSON.stringify({ prompt: 'a cat', completions: [' sat', ' ate a dog'] })}\n`;
  const rewards = async (more: string[]): Promise<number[]> => jsonLines(await rlhf.succeed(['score', '--model', 'rm', '--quiet', ...more], scored))[0].rewards as number[];
  const [full, half] = [await rewards([]), await rewards(['--dtype', 'f16'])];
  full.forEach((r, i) => assert.ok(Math.abs(half[i] - r) < 0.01 && half[i] !== r, `${half[i]}, not ${r}`));
  const PPO = ['ppo', '--policy', 'base', '--reward', 'rm', '--prompts', 'prompts.jsonl', '--episodes', '12', '--batch-size', '4', '--minibatch-size', '4',
    '--epochs', '1', '--max-new-tokens', '6', '--ema', '0.9', ...F16];
  await rlhf.succeed([...PPO, '--out', 'policy']);
  const metrics = metricsOf(rlhf.path('policy'));
  assert.is(metrics.length, 3);
  assert.is(metrics[0]['objective/kl'], 0, 'policy and reference have the same bits');
  for (const m of metrics) for (const name of ['val/ratio', 'val/ratio_max', 'val/ratio_min']) assert.is(m[name], 1);
  await rlhf.succeed([...PPO, '--out', 'policy2', '--max-steps', '1']);
  await rlhf.succeed([...PPO, '--out', 'policy2', '--resume']);
  for (const part of [[], ['value'], ['raw']]) assert.ok(weightsOf('policy2', ...part).equals(weightsOf('policy', ...part)), part.join());
});

halfTest('a value beyond f16 inside a layer stops a run and a reader, which f32 goes through', async () => {
  const folder = openModel(rlhf.path('base'));
  const tensors = folder.plan.map(({ name, shape }) => ({ name, shape, data: folder.read(name) }));
  folder.close();
  const inner = tensors.filter(({ name }) => /layers?\.0\.mlp\.up_proj\.weight$|h\.0\.mlp\.c_fc\.weight$/.test(name));
  assert.is(inner.length, 1);
  const largest = inner[0].data.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  inner[0].data = inner[0].data.map((x) => (x / largest) * 60000); // each weight fits, the sums of products do not
  cpSync(rlhf.path('base'), rlhf.path('hot'), { recursive: true });
  await writeSafetensors(rlhf.path('hot', 'model.safetensors'), tensors);
  const args = SFT.map((word) => (word === 'base' ? 'hot' : word));
  const failed = await rlhf.run([...args, '--max-steps', '1', '--out', 'cold', ...F16]);
  assert.is(failed.code, 1, failed.stderr);
  assert.match(failed.stderr, /^rlhf: error: step 1: loss is (NaN|-?Infinity)/m);
  assert.not.ok(existsSync(rlhf.path('cold', 'model.safetensors')));
  await rlhf.succeed([...args, '--max-steps', '1', '--out', 'warm', '--quiet']);
  const row = `${JSON.stringify({ prompt: 'a cat', completion: ' sat' })}\n`;
  const read = await rlhf.run(['logprobs', '--model', 'hot', ...F16], row);
  assert.is(read.code, 1, read.stderr);
  assert.match(read.stderr, /^rlhf: error: hot: a log-probability is NaN\nhint: leave --dtype f16 away/m);
  assert.is(read.stdout, '');
  const drawn = await rlhf.run(['sample', '--model', 'hot', '--max-new-tokens', '4', ...F16], row);
  assert.is(drawn.code, 1, drawn.stderr);
  assert.match(drawn.stderr, /^rlhf: error: sampling: a logit is not finite\nhint: leave --dtype f16 away/m);
  assert.is(drawn.stdout, '');
  await rlhf.succeed(['logprobs', '--model', 'hot', '--quiet'], row);
});

halfTest('an adapter is trained on f16 weights', async () => {
  const LORA = [...SFT.map((word) => (word === '0.003' ? '0.05' : word)), '--lora-rank', '4', '--lora-targets', 'all-linear'];
  await rlhf.succeed([...LORA, '--out', 'lora-full', '--quiet']);
  await rlhf.succeed([...LORA, '--out', 'lora-half', ...F16]);
  const [full, half] = [losses('lora-full'), losses('lora-half')];
  // So small a model, barely trained, has little for an adapter to work with: its steps move the loss by a tenth.
  assert.ok(Math.max(...full) - Math.min(...full) > 0.1, `the adapter matters: ${full}`);
  full.forEach((loss, i) => assert.ok(Math.abs(half[i] / loss - 1) < 0.01, `step ${i + 1}: ${half[i]}, not ${loss}`));
});

test.run();
