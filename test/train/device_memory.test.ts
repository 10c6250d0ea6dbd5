// What a long run holds on the device: bounded, flat, and cut as --memory says, again so when it is resumed.
import { readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { deviceMemory } from '../../src/gpu/memory.ts';
import { onPaper } from '../../src/gpu/paper.ts';
import { arenaBytes, download, mostScratchBytes, persistent } from '../../src/gpu/tensor.ts';
import { packRows, shapeOf, type PackRow } from '../../src/model/batch.ts';
import type { ModelConfig } from '../../src/model/config.ts';
import { generate } from '../../src/model/generate.ts';
import { newModel } from '../../src/model/load.ts';
import { likelihood, MOST_PASSES, Passes, prepare } from '../../src/model/passes.ts';
import { parameterCount } from '../../src/model/tensor_plan.ts';
import { RunError, UsageError } from '../../src/errors.ts';
import { checkThatFits, mostThatFit, planMemory } from '../../src/train/memory.ts';
import { Optimizer } from '../../src/train/optimizer.ts';
import { LogprobReader, Scorer } from '../../src/stages/judge.ts';
import { LikelihoodTraining } from '../../src/stages/likelihood_training.ts';
import { RandomStream } from '../../src/train/random.ts';
import { closeAfterTests, openForTests } from '../gpu/device.ts';
import { recordingContext } from '../stages/context.ts';
import { buildWholeProgram, jsonLines } from '../properties/program.ts';

test.before(openForTests);
test.after(closeAfterTests);
const config: ModelConfig = {
  family: 'llama', vocabSize: 300, width: 32, layers: 2, heads: 2, kvHeads: 2, headDim: 16, hidden: 64, context: 256, norm: 'rms',
  normEps: 1e-5, positions: 'rope', ropeTheta: 10000, activation: 'silu', gated: true, bias: { qkv: false, attnOut: false, mlp: false },
  tied: true, bosId: 0, eosId: 1, padId: 2, initializerRange: 0.02,
};
const row = (length: number, picks: number, key = 0): PackRow => {
  const ids = Int32Array.from({ length }, (_, i) => (i * 31 + length) % 300);
  const at = Array.from({ length: picks }, (_, i) => length - picks - 1 + i);
  return { ids, at, targets: at.map((t) => ids[t + 1]!), key };
};
const OPTIMISER = { adamBeta1: 0.9, adamBeta2: 0.999, adamEps: 1e-8, weightDecay: 0, maxGradNorm: 1 };

test('shuffled ragged rows: once all shapes have come, steps allocate nothing', async () => {
  const model = newModel(config, 0);
  const training = new LikelihoodTraining(model, { dropout: 0, seed: 0, microBatchTokens: 2048 }, recordingContext('train-sft'));
  const optimizer = new Optimizer('adam', model.weights, OPTIMISER);
  const rows = Array.from({ length: 40 }, (_, i) => row(10 + ((i * 17) % 60), 3 + ((i * 7) % 6), i));
  const shapes = new Set<string>();
  const epoch = async (number: number): Promise<void> => {
    const order = [...new RandomStream(1, 'shuffle', number).permutation(rows.length)];
    for (let first = 0; first < rows.length; first += 8) {
      const batch = order.slice(first, first + 8).map((i) => rows[i]!);
      shapes.add(JSON.stringify(shapeOf(batch)));
      await training.accumulate(first, batch);
      await optimizer.step(1, 1e-3);
    }
  };
  for (let n = 0; n < 6; n++) await epoch(n);
  const [seen, live] = [shapes.size, deviceMemory().live];
  assert.ok(seen > 2, `${seen} shapes`);
  for (let n = 0; n < 12; n++) await epoch(n % 6); // twice as many steps again, of the same shapes
  assert.is(shapes.size, seen);
  assert.is(deviceMemory().live, live);
});

test('more shapes than are kept: recorded passes and their tensors are freed, and recording again gives the same numbers', async () => {
  const model = newModel(config, 0, false);
  const passes = new Passes(model.decoder);
  const batch = packRows([row(40, 20)], config);
  const stats = async () => new Float32Array((await download((await passes.run(batch)).stats))[0]!);
  const first = await stats();
  const empty = deviceMemory().live;
  // Each shape differs from the others in its attention tiles alone, so that all take about the same.
  const shapes = Array.from({ length: 3 * MOST_PASSES }, (_, i) => ({ tokens: 64, picks: 32, rows: 16 * (1 + (i % MOST_PASSES)) + Math.floor(i / MOST_PASSES) }));
  for (const shape of shapes.slice(0, MOST_PASSES)) await passes.for(shape);
  const full = deviceMemory().live - empty;
  for (const shape of shapes.slice(MOST_PASSES)) await passes.for(shape);
  await new Promise((resolve) => setTimeout(resolve));
  const later = deviceMemory().live - empty;
  assert.ok(full > 64 * 1024 && later < 1.1 * full, `${later} bytes after three times the shapes, ${full} before`);
  assert.equal(await stats(), first);
});

test('buffers of several shapes, planned together: within 1.1 times what is needed at once', () => {
  const model = newModel({ ...config, width: 64, headDim: 32, hidden: 172, layers: 4 }, 0);
  const batches = [380, 450, 520, 470, 640, 610, 560, 310, 220].map((length) => [row(length, Math.floor(length / 3))]);
  onPaper(() => {
    const totals = persistent(2, 4);
    const passes = new Passes(model.decoder, { training: true, objective: likelihood(totals) });
    prepare([{ passes, batches }]);
    assert.ok(mostScratchBytes() > 4 * 2 ** 20, 'a step of 640 tokens was planned');
    assert.ok(arenaBytes() <= 1.1 * mostScratchBytes(), `${arenaBytes()} bytes for ${mostScratchBytes()}`);
  });
});

test('an evaluation of any size adds little to what training takes: its passes are cut to be no larger', () => {
  const model = newModel({ ...config, width: 64, headDim: 32, hidden: 172, layers: 4 }, 0);
  const batches = Array.from({ length: 8 }, (_, i) => Array.from({ length: 16 }, () => row(60 + i, 20)));
  const taken = (evaluated: number) => onPaper(() => {
    const training = new LikelihoodTraining(model, { dropout: 0, seed: 0, microBatchTokens: 16384 }, recordingContext('train-sft'));
    prepare(training.upcoming(batches, Array.from({ length: evaluated }, () => row(64, 64))));
    return arenaBytes();
  });
  const [alone, both] = [taken(0), taken(500)];
  assert.ok(alone > 8 * 2 ** 20, `${alone} bytes for training`);
  assert.ok(both <= 1.05 * alone, `${both} bytes with the evaluation, ${alone} without`);
});

test('on paper nothing is allocated', () => {
  const model = newModel(config, 0);
  const before = deviceMemory().live;
  const planned = onPaper((memory) => {
    prepare([{ passes: new Passes(model.decoder), batches: [[row(200, 100)]] }]);
    return memory.live;
  });
  assert.ok(planned > 100_000);
  assert.is(deviceMemory().live, before);
});

test('a model to be drawn whose weights, gradients and moments are too much is refused before it is drawn', () => {
  const bytes = parameterCount(config, 'lm') * 16;
  checkThatFits({ memory: bytes }, config, 'lm');
  checkThatFits({ memory: bytes - 1, microBatchTokens: 64 }, config, 'lm'); // asked for as it is
  assert.throws(() => checkThatFits({ memory: bytes - 1 }, config, 'lm'), (error: unknown) => error instanceof UsageError && /gradients and moments take \d+ KiB .* are allowed$/.test(error.message));
  assert.throws(() => checkThatFits({}, { ...config, width: 2 ** 20, headDim: 2 ** 19 }, 'lm'), (error: unknown) => error instanceof UsageError); // by default
});

test('as many side by side as fit: by halves, not fewer than may be, and what is too much even then is told', () => {
  const bytesOf = (n: number) => planMemory(() => persistent(n, 1024), () => undefined, []);
  const taken = bytesOf(1).bytes;
  const tried: number[] = [];
  const fit = (memory: number | undefined, most: number, least: number) => mostThatFit(memory, most, least, (n) => (tried.push(n), bytesOf(n)));
  assert.is(fit(taken + 20 * 4096, 100, 1), 12);
  assert.equal(tried, [100, 50, 25, 12]);
  assert.is(fit(taken + 20 * 4096, 100, 20), 20);
  assert.is(fit(undefined, 2 ** 40, 1) < 2 ** 40, true);
  const refusal = (memory: number | undefined, least: number): UsageError | RunError => {
    try {
      fit(memory, 2 ** 40, least);
    } catch (error) {
      return error as UsageError | RunError;
    }
    return assert.unreachable() as never;
  };
  assert.match(refusal(64 * 1024, 100).message, /^the model and its smallest pass take .* of device memory, but 64 KiB are allowed$/);
  const { message, hint } = refusal(undefined, 2 ** 39);
  assert.match(message, /^a buffer of \d+\.0 GiB is larger than the device allows/);
  assert.match(hint!, /^lower --batch-size/);
});

test('readers and sampling take at most 5 % more than --memory allows, in the smallest of models, whatever rows come in which order', async () => {
  const lengths = Array.from({ length: 40 }, (_, i) => 3 + Math.floor((252 * i) / 39)); // each longer than those before
  const ids = (length: number): Int32Array => Int32Array.from({ length }, (_, i) => (i * 31 + length) % 300);
  const readings: Record<string, (memory: number | undefined) => Promise<unknown[]>> = {
    async logprobs(memory) {
      const reader = LogprobReader.within(memory, newModel(config, 0, false));
      const read = [];
      for (const length of lengths) read.push(...await reader.logprobs([{ ids: ids(length), from: 1 }]));
      return [...read, ...await reader.logprobs(lengths.map((length) => ({ ids: ids(length), from: 1 })))];
    },
    async scores(memory) {
      const scorer = Scorer.within(memory, newModel(config, 0, false, 'reward'));
      const read = [];
      for (const length of lengths) read.push(...await scorer.scores([ids(length)]));
      return [...read, ...await scorer.scores(lengths.map(ids))];
    },
    async answers(memory) {
      async function* requests() { // their lengths are not known before
        for (const [row, length] of lengths.entries()) yield { prompt: ids(Math.min(length, 240)), row, sample: 0, maxNewTokens: 4 };
      }
      const answers: number[][] = [];
      const draw = { temperature: 1, topK: 0, topP: 1, seed: 1, iteration: 0 };
      for await (const { request, ids: drawn } of generate(newModel(config, 0, false).decoder, requests(), draw, { slots: 16, ends: [], memory })) answers[request.row] = drawn;
      return answers;
    },
  };
  for (const [name, read] of Object.entries(readings)) {
    const expected = await read(undefined);
    // On a device of its own, as a command has it: the least that is accepted, and twice as much.
    for (const share of [1, 2]) {
      await closeAfterTests();
      await openForTests();
      const needed = await read(1).then(() => 0, (error: UsageError) => {
        const [, number, unit] = /take ([\d.]+) (KiB|MiB) of/.exec(error.message)!;
        return Math.ceil((Number(number) + (unit === 'MiB' ? 0.1 : 0)) * 2 ** (unit === 'MiB' ? 20 : 10));
      });
      await closeAfterTests();
      await openForTests();
      assert.equal(await read(share * needed).catch((error: Error) => error.message), expected, name);
      const { peak } = deviceMemory();
      assert.ok(peak <= 1.05 * share * needed, `${name}: ${peak} bytes, ${share * needed} are allowed`);
    }
  }
});

test('what --memory made of the passes is recorded and used again by --resume, whatever the memory then', async () => {
  const rlhf = await buildWholeProgram();
  const text = (i: number): string => Array.from({ length: 150 }, (_, t) => 'abcdefgh'[(i + t * t) % 8]).join(' ');
  rlhf.rows('text.jsonl', Array.from({ length: 12 }, (_, i) => ({ text: text(i) })));
  const args = ['pretrain', '--data', 'text.jsonl', '--layers', '4', '--width', '32', '--heads', '2', '--context', '128', '--vocab-size', '262',
    '--batch-size', '4', '--quiet', '--save-every', '2'];
  const record = (out: string) => JSON.parse(readFileSync(rlhf.path(out, 'rlhf.json'), 'utf8'));
  const weights = (out: string) => readFileSync(rlhf.path(out, 'model.safetensors'));
  // Passes of a single row take this much, with all that their layers keep: what is allowed is a little less.
  const shown = await rlhf.succeed([...args, '--out', 'whole', '--micro-batch-tokens', '128', '--dry-run']);
  const row = jsonLines(shown.trim().split('\n').at(-1)!)[0]!;
  assert.is(row.recompute, false);
  const small = `${Math.floor(row.memory_estimated_bytes / 1024) - 8}K`;
  await rlhf.succeed([...args, '--out', 'whole', '--memory', small]);
  const { micro_batch_tokens: tokens, recompute, memory_peak_bytes: peak } = record('whole');
  assert.is(recompute, true);
  assert.ok(peak < row.memory_estimated_bytes, `${peak} bytes, ${row.memory_estimated_bytes} without recomputation`);
  await rlhf.succeed([...args, '--out', 'parts', '--memory', small, '--max-steps', '2']);
  await rlhf.succeed([...args, '--out', 'parts', '--memory', '64K', '--max-steps', '3', '--resume']);
  await rlhf.succeed([...args, '--out', 'parts', '--memory', '8G', '--resume']);
  assert.is(record('parts').recompute, true);
  assert.is(record('parts').micro_batch_tokens, tokens);
  assert.ok(weights('parts').equals(weights('whole')), 'the resumed run ends with the same weights');
  for (const [memory, told] of [['64K', /^rlhf: error: the weights, gradients and moments take [\d.]+ [KM]iB of device memory, but 64 KiB are allowed$/m],
    [String(weights('whole').length * 4), /^rlhf: error: the models and one pass take [\d.]+ [KM]iB of device memory, but [\d.]+ [KM]iB are allowed$/m]] as const) {
    const { code, stderr } = await rlhf.run([...args, '--out', 'none', '--memory', memory]);
    assert.is(code, 2);
    assert.match(stderr, told);
  }
  rlhf.remove();
});

test.run();
