import type { Storage } from '../gpu/tensor.ts';
import { Generator } from '../model/generator.ts';
import { Passes } from '../model/passes.ts';
import { Scorer } from '../stages/judge.ts';
import { compare, rollOut } from '../stages/ppo_episodes.ts';
import { Advantages } from '../stages/ppo_rollout.ts';
import { Update, type UpdateStats } from '../stages/ppo_update.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { defaultMicroBatchTokens } from '../train/micro_batches.ts';
import { Optimizer } from '../train/optimizer.ts';
import { SMALL_LLAMA, untrained } from './configs.ts';
import type { BenchCase } from './measure.ts';
import { ADAM, idsOf } from './models.ts';

/** One iteration as in the quickstart without its pretraining term: 64 episodes, minibatches of 32, 2 epochs. */
export function ppoIteration(dtype: Storage): BenchCase {
  const [episodes, minibatch, epochs, promptTokens, newTokens] = [64, 32, 2, 30, 30];
  return {
    name: 'ppo_iteration',
    shape: { model: 'llama-0.26M', episodes, minibatch, epochs, prompt_tokens: promptTokens, new_tokens: newTokens },
    async prepare() {
      const config = SMALL_LLAMA;
      const [policy, value] = [untrained(config, { trainable: true, dtype }), untrained(config, { trainable: true, head: 'reward', dtype })];
      const reference = untrained(config, { trainable: false, dtype });
      const reward = new Scorer(untrained(config, { trainable: false, head: 'reward', dtype }));
      const generator = new Generator(policy.decoder, { slots: episodes, length: promptTokens + newTokens, ends: [] });
      const passes = {
        policyPasses: new Passes(policy.decoder),
        referencePasses: new Passes(reference.decoder),
        valuePasses: new Passes(value.decoder, { scale: value.scale }),
      };
      const advantages = new Advantages(false);
      const optimizers = { policy: new Optimizer('policy', policy.weights, ADAM), value: new Optimizer('value', value.weights, ADAM) };
      const microBatchTokens = defaultMicroBatchTokens();
      const update = new Update(policy, policy.weights, value, optimizers, undefined,
        { temperature: 1, gamma: 0, microBatchTokens, emaDecay: 0, compiling: () => undefined });
      const numbers = { klCoef: 0.15, discount: 1, lambda: 0.95, clip: 0.2, valueClip: 0.2 };
      update.configure(numbers);
      const prompts = Array.from({ length: episodes }, (_, row) =>
        ({ row, pass: 0, prompt: '', ids: Int32Array.from(idsOf(promptTokens, row, config.vocabSize)) }));
      const wordless = { decode: () => '' } as unknown as Tokenizer; // the texts of random tokens are of no use
      const times: [rollout: number, score: number, update: number][] = [];
      let iteration = 0;
      let step = 0;
      return {
        tokens: episodes * (promptTokens + newTokens),
        episodes,
        kernels: true,
        async run() {
          const began = performance.now();
          const rolled = await rollOut(generator, prompts, wordless, { maxNewTokens: newTokens, temperature: 1, seed: 0 }, ++iteration);
          const drawn = performance.now();
          const scores = await reward.scores(rolled.map((e) => e.ids));
          rolled.forEach((e, i) => (e.score = scores[i]));
          await compare(rolled, passes, policy, microBatchTokens);
          await advantages.compute(rolled, numbers);
          const scored = performance.now();
          const reads: (() => Promise<UpdateStats>)[] = [];
          for (let epoch = 0; epoch < epochs; epoch++) {
            for (let first = 0; first < episodes; first += minibatch) {
              reads.push(await update.submit(++step, rolled.slice(first, first + minibatch), [], { policy: 1e-5, value: 1e-5 }));
            }
          }
          for (const read of reads) await read();
          times.push([drawn - began, scored - drawn, performance.now() - scored]);
        },
        more() {
          const later = times.slice(2); // the first two compile and warm up
          const mean = (part: 0 | 1 | 2): number => Math.round(10 * later.reduce((sum, t) => sum + t[part], 0) / later.length) / 10;
          return { parts_ms: { rollout: mean(0), score: mean(1), update: mean(2) } };
        },
        dispose: () => generator.dispose(),
      };
    },
  };
}
