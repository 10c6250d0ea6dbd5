import type { RunContext } from '../context.ts';
import { stage } from '../gpu/tensor.ts';
import type { PackRow } from '../model/batch.ts';
import type { ModelConfig } from '../model/config.ts';
import { Generator, type Request } from '../model/generate.ts';
import { loadModel, newModel, type Model } from '../model/load.ts';
import type { BenchSettings } from '../options.ts';
import { Passes } from '../model/passes.ts';
import type { BenchCase } from '../stages/bench.ts';
import { Scorer } from '../stages/judge.ts';
import { LikelihoodTraining } from '../stages/likelihood_training.ts';
import { compare, rollOut } from '../stages/ppo_episodes.ts';
import { Advantages } from '../stages/ppo_rollout.ts';
import { Update } from '../stages/ppo_update.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { Optimizer } from '../train/optimizer.ts';

const ADAM = { adamBeta1: 0.9, adamBeta2: 0.95, adamEps: 1e-8, weightDecay: 0, maxGradNorm: 1 };

/** The 0.94 M GPT that speeds are compared on: V 1024, C 128, 4 layers, 4 heads. */
const GPT: ModelConfig = {
  family: 'gpt2', vocabSize: 1024, width: 128, layers: 4, heads: 4, kvHeads: 4, headDim: 32, hidden: 512, context: 128, norm: 'layer',
  normEps: 1e-5, positions: 'learned', ropeTheta: 1e4, activation: 'gelu_new', gated: false,
  bias: { qkv: true, attnOut: true, mlp: true }, tied: true, initializerRange: 0.02,
};

/** The quickstart's model, 263,744 parameters. */
const LLAMA: ModelConfig = {
  family: 'llama', vocabSize: 1024, width: 64, layers: 4, heads: 4, kvHeads: 4, headDim: 16, hidden: 172, context: 128, norm: 'rms',
  normEps: 1e-5, positions: 'rope', ropeTheta: 1e4, activation: 'silu', gated: true,
  bias: { qkv: false, attnOut: false, mlp: false }, tied: true, initializerRange: 0.02,
};

const quiet = { log: () => undefined } as unknown as RunContext;

const idsOf = (length: number, row: number, vocabulary: number): Uint32Array =>
  Uint32Array.from({ length }, (_, t) => ((row * 7919 + t * 104729) % (vocabulary - 3)) + 3);

const likelihoodRows = (rows: number, length: number, vocabulary: number): PackRow[] => Array.from({ length: rows }, (_, r) => {
  const ids = idsOf(length + 1, r, vocabulary).subarray(0, length);
  const at = Array.from({ length: length - 1 }, (_t, i) => i);
  return { ids, at, targets: at.map((i) => ids[i + 1]) };
});

/** Benchmarks of whole steps; with `--model` of that model instead of the fixed ones. */
export function modelCases(settings: BenchSettings): BenchCase[] {
  const own = settings.model;
  const [B, T] = [settings.batch, settings.length];
  const make = (config: ModelConfig, trainable: boolean): Model => (own ? loadModel(own, { trainable, kind: 'lm' }) : newModel(config, 0, trainable));
  const train: BenchCase = {
    name: 'train_step',
    shape: { model: own ?? 'gpt-0.94M', B, T },
    async prepare() {
      const model = make(GPT, true);
      const training = new LikelihoodTraining(model, { dropout: 0, seed: 0, microBatchTokens: 16384 }, quiet);
      const optimizer = new Optimizer('adam', model.weights, ADAM);
      const rows = likelihoodRows(B, T, model.config.vocabSize);
      let step = 0;
      const submit = async (): Promise<void> => {
        await training.accumulate(step, rows);
        await optimizer.step(++step, 1e-4);
      };
      return {
        tokens: B * T,
        flops: 6 * model.weights.count * B * T,
        async run() {
          await submit();
          await stage(training.totals).read();
        },
      };
    },
  };
  const sampling: BenchCase = {
    name: 'sample',
    shape: { model: own ?? 'gpt-0.94M', prompts: 64, new_tokens: 40 },
    async prepare() {
      const model = make(GPT, false);
      const generator = new Generator(model.decoder, { slots: 64, length: 24 + 40, ends: [] });
      const requests = Array.from({ length: 64 }, (_, row): Request => ({ prompt: idsOf(16 + (row % 9), row, model.config.vocabSize), row, sample: 0, maxNewTokens: 40 }));
      return {
        tokens: 64 * 40,
        async run() {
          const draw = { temperature: 1, topK: 0, topP: 1, seed: 0, iteration: 0 };
          for await (const response of generator.run(requests, draw)) void response;
        },
      };
    },
  };
  return own ? [train, sampling] : [train, sampling, ppoIteration()];
}

/** One iteration as in the quickstart: 64 episodes of 30 + 30 tokens, minibatches of 32, 2 epochs, γ 0. */
function ppoIteration(): BenchCase {
  const [count, minibatch, epochs, promptTokens, newTokens] = [64, 32, 2, 30, 30];
  return {
    name: 'ppo_iteration',
    shape: { model: 'llama-0.26M', episodes: count, minibatch, epochs },
    async prepare() {
      const [policy, reference, value] = [newModel(LLAMA, 0), newModel(LLAMA, 1, false), newModel(LLAMA, 2, true, 'reward')];
      const reward = new Scorer(newModel(LLAMA, 3, false, 'reward'));
      const generator = new Generator(policy.decoder, { slots: count, length: promptTokens + newTokens, ends: [] });
      const passes = {
        policyPasses: new Passes(policy.decoder),
        referencePasses: new Passes(reference.decoder),
        valuePasses: new Passes(value.decoder, { scale: value.scale }),
      };
      const advantages = new Advantages(false);
      const optimizers = { policy: new Optimizer('policy', policy.weights, ADAM), value: new Optimizer('value', value.weights, ADAM) };
      const update = new Update(policy, policy.weights, value, optimizers, undefined,
        { temperature: 1, gamma: 0, microBatchTokens: 2048, emaDecay: 0, compiling: () => undefined });
      const numbers = { klCoef: 0.15, discount: 1, lambda: 0.95, clip: 0.2, valueClip: 0.2 };
      update.configure(numbers);
      const prompts = Array.from({ length: count }, (_, row) => ({ row, pass: 0, prompt: '', ids: Int32Array.from(idsOf(promptTokens, row, LLAMA.vocabSize)) }));
      const textless = { decode: () => '' } as unknown as Tokenizer;
      let iteration = 0;
      let step = 0;
      return {
        tokens: count * (promptTokens + newTokens),
        async run() {
          const episodes = await rollOut(generator, prompts, textless, { maxNewTokens: newTokens, temperature: 1, seed: 0 }, ++iteration);
          const scores = await reward.scores(episodes.map((e) => e.ids));
          episodes.forEach((e, i) => (e.score = scores[i]));
          await compare(episodes, passes, policy, 2048);
          await advantages.compute(episodes, numbers);
          const reads = [];
          for (let epoch = 0; epoch < epochs; epoch++) {
            for (let first = 0; first < count; first += minibatch) {
              reads.push(await update.submit(++step, episodes.slice(first, first + minibatch), [], { policy: 1e-5, value: 1e-5 }));
            }
          }
          for (const read of reads) await read();
        },
      };
    },
  };
}
