import type { RunContext } from '../context.ts';
import { UsageError } from '../errors.ts';
import { arenaBytes, stage, type Storage } from '../gpu/tensor.ts';
import type { PackRow } from '../model/batch.ts';
import type { ModelConfig } from '../model/config.ts';
import { Generator, type Request } from '../model/generator.ts';
import { loadModel, type Model } from '../model/load.ts';
import type { BenchSettings } from '../options.ts';
import { LikelihoodTraining } from '../stages/likelihood_training.ts';
import { modelBytes } from '../train/memory.ts';
import { defaultMicroBatchTokens } from '../train/micro_batches.ts';
import { Optimizer } from '../train/optimizer.ts';
import { GPT2, SMALL_GPT, untrained } from './configs.ts';
import type { BenchCase } from './measure.ts';

export const ADAM = { adamBeta1: 0.9, adamBeta2: 0.95, adamEps: 1e-8, weightDecay: 0, maxGradNorm: 1 };

/** What compiles says nothing here. */
const silent = { log: () => undefined } as unknown as RunContext;

/** Where a benchmark's model comes from: `name` stands in its shape. */
interface Source { name: string; load(trainable: boolean): Model }

const fresh = (name: string, config: ModelConfig, dtype: Storage): Source => ({ name, load: (trainable) => untrained(config, { trainable, dtype }) });

/** Training and sampling, of the fixed models or of the one in --model. */
export function modelCases({ model, batch, length, dtype }: BenchSettings): BenchCase[] {
  if (model) {
    const source: Source = { name: model, load: (trainable) => loadModel(model, { dtype, trainable, kind: 'lm' }) };
    return [trainStep('train_step', source, batch, length), sampling('sample', source, batch, 24, 40)];
  }
  return [
    trainStep('train_step', fresh('gpt-0.94M', SMALL_GPT, dtype), batch, length),
    sampling('sample', fresh('gpt-0.94M', SMALL_GPT, dtype), 64, 24, 40),
    { ...trainStep('train_step_gpt2', fresh('gpt2-124M', GPT2, dtype), 8, 1024), large: true },
    { ...sampling('sample_gpt2', fresh('gpt2-124M', GPT2, dtype), 64, 24, 40), large: true },
  ];
}

/** One optimiser step on B rows of T tokens, as `pretrain` takes it. */
function trainStep(name: string, source: Source, B: number, T: number): BenchCase {
  return {
    name,
    shape: { model: source.name, B, T },
    async prepare() {
      const model = source.load(true);
      const { config, weights } = model;
      if (T < 2 || T > config.context) throw new UsageError(`--length ${T}: the context of ${source.name} has ${config.context} tokens, and a row needs 2`);
      const training = new LikelihoodTraining(model, { dropout: 0, seed: 0, microBatchTokens: defaultMicroBatchTokens() }, silent);
      const optimizer = new Optimizer('adam', weights, ADAM);
      const rows = likelihoodRows(B, T, config.vocabSize);
      let step = 0;
      let ready = 0;
      const submit = async (): Promise<void> => {
        await training.accumulate(step, rows);
        await optimizer.step(++step, 1e-4);
        ready ||= performance.now();
      };
      return {
        tokens: B * T,
        // Six operations a weight and token; attention's products of a causal row, forward and twice that backward.
        flops: 6 * B * T * (weights.count + config.layers * T * config.heads * config.headDim),
        kernels: true,
        submit,
        async run() {
          await submit();
          await stage(training.totals, optimizer.norm).read();
        },
        partOf: (kernel, before) => (kernel === 'embedding' ? 'forward' : kernel === 'likelihood_grad' ? 'backward'
          : kernel === 'gradient_norm' ? 'optimiser' : before || 'forward'),
        more: () => ({ parameters: weights.count, model_bytes: modelBytes(model), arena_bytes: arenaBytes(), ready_ms: Math.round(ready) }),
        dispose: () => weights.dispose(),
      };
    },
  };
}

/** Answers of `newTokens` tokens to prompts of up to `longest` tokens, unequal ones, all decoded side by side. */
function sampling(name: string, source: Source, prompts: number, longest: number, newTokens: number): BenchCase {
  return {
    name,
    shape: { model: source.name, prompts, new_tokens: newTokens },
    async prepare() {
      const model = source.load(false);
      const { context } = model.config;
      if (longest + newTokens > context) throw new UsageError(`bench ${name}: the context of ${source.name} has ${context} tokens, ${longest + newTokens} are sampled`);
      const generator = new Generator(model.decoder, { slots: prompts, length: longest + newTokens, ends: [] });
      const requests = Array.from({ length: prompts }, (_, row): Request =>
        ({ prompt: idsOf(longest - (row % 9), row, model.config.vocabSize), row, sample: 0, maxNewTokens: newTokens }));
      return {
        tokens: prompts * newTokens,
        kernels: true,
        async run() {
          const draw = { temperature: 1, topK: 0, topP: 1, seed: 0, iteration: 0 };
          let done = 0;
          for await (const { ids } of generator.run(requests, draw)) done += ids.length;
          if (done !== prompts * newTokens) throw new Error(`${done} tokens for ${prompts * newTokens}`);
        },
        dispose() {
          generator.dispose();
          model.weights.dispose();
        },
      };
    },
  };
}

/** Tokens that look random, the same in every run. */
export const idsOf = (length: number, row: number, vocabulary: number): Uint32Array =>
  Uint32Array.from({ length }, (_, t) => ((row * 7919 + t * 104729) % (vocabulary - 3)) + 3);

const likelihoodRows = (rows: number, length: number, vocabulary: number): PackRow[] => Array.from({ length: rows }, (_, r) => {
  const ids = idsOf(length, r, vocabulary);
  const at = Array.from({ length: length - 1 }, (_unused, i) => i);
  return { ids, at, targets: at.map((i) => ids[i + 1]) };
});
