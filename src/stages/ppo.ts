import { join } from 'node:path';
import type { RunContext } from '../context.ts';
import { collectRows, hashesOf, RowTooLong } from '../data/collect.ts';
import { encodePrompt, endOfPrompt } from '../data/encode.ts';
import { asPrompt } from '../data/rows.ts';
import { Interrupted, RunError, UsageError } from '../errors.ts';
import { upload } from '../gpu/tensor.ts';
import { Generator } from '../model/generator.ts';
import { checkReader, loadModel, loadTokenizer, onSameWeights, type Model } from '../model/load.ts';
import { trainedPart, trainsWeights } from '../model/trained.ts';
import { paddingShare, Passes, prepare, reserve, type Upcoming } from '../model/passes.ts';
import type { PpoSettings } from '../options.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { afterSteps, checkFinite, checkpoint, checkpointOnce, lastStep, resume, type Kept } from '../train/loop.ts';
import { choosePasses, planMemory } from '../train/memory.ts';
import { Optimizer } from '../train/optimizer.ts';
import { PassOrder } from '../train/order.ts';
import { RandomStream } from '../train/random.ts';
import { ppoMultiplier } from '../train/schedule.ts';
import { longestOf, microBatches } from '../train/micro_batches.ts';
import { beginRun, compileProgress, memoryReport, openTraining } from '../train/session.ts';
import { Scorer } from './judge.ts';
import { LikelihoodTraining } from './likelihood_training.ts';
import { compare, rollOut, type PromptRow } from './ppo_episodes.ts';
import { rolloutMetrics, saveRollouts, updateMetrics } from './ppo_metrics.ts';
import { Advantages } from './ppo_rollout.ts';
import { Update, type UpdateStats } from './ppo_update.ts';
import { openReward, sameTokenizer } from './reward_source.ts';
import { lastMetrics, pretrainingRows } from './sft.ts';

/**
 * Step 3, reinforcement learning with PPO on four models: policy, frozen reference, reward model, value model (appendix C.4). It
 * maximises
 *     E[ r(x,y) − β · log(π_RL(y|x)/π_SFT(y|x)) ] + γ · E_pretrain[ log π_RL(x) ]        (Ouyang et al. 2022, equation 2)
 * Each iteration: roll out, score, compare with the reference, spread the reward over the tokens, estimate advantages, update.
 */
export async function ppo(settings: PpoSettings, context: RunContext): Promise<void> {
  const tokenizer = await loadTokenizer(settings.policy!, settings.chatTemplate);
  await sameTokenizer(settings.reference, tokenizer, '--reference');
  const opened = await openTraining(settings, context);
  const policy = loadModel(settings.policy!, { dtype: settings.dtype, trainable: trainsWeights(settings), kind: 'lm' });
  const trained = trainedPart(policy, settings);
  const prompts = await readPrompts(settings, tokenizer, policy, context);
  const mix = settings.gamma > 0 ? await pretrainingRows(settings.pretrain!, tokenizer, policy, settings, context) : undefined;
  const reward = await openReward(settings.reward!, tokenizer, context, { dtype: settings.dtype });
  // With adapters, the reference is the policy without its adapter, and the reward model the value model without its own: each pair on
  // one copy of the weights.
  const adapted = !trainsWeights(settings);
  const twin = adapted && reward.model && settings.value === settings.reward ? onSameWeights(reward.model) : undefined;
  const value = twin?.model
    ?? loadModel(settings.value ?? settings.policy!, { dtype: settings.dtype, trainable: !adapted, foldGain: true, newHead: { kind: 'zeros' } });
  const trainedValue = trainedPart(value, settings);
  if (twin) upload(trainedValue.parameters.get('score.weight').value, twin.head);
  const reference = adapted && settings.reference === settings.policy ? { ...policy, decoder: policy.decoder.withoutAdapter() }
    : loadModel(settings.reference, { dtype: settings.dtype, kind: 'lm' });

  const total = settings.episodes ?? prompts.rows.length;
  const iterations = Math.ceil(total / settings.batchSize);
  const longest = longestOf(prompts.rows.map(({ ids }) => ids)) + settings.maxNewTokens;
  for (const [option, reader] of [['--reward', reward.model], ['--value', value], ['--reference', reference]] as const) {
    if (reader) checkReader(option, reader, policy, Math.min(policy.config.context, longest));
  }
  const promptOrder = new PassOrder(prompts.rows.length, 'prompts', settings);
  const textOrder = mix && new PassOrder(mix.rows.length, 'pretrain', settings);
  const { temperature } = settings;

  // What an iteration works with
  const work = (microBatchTokens: number) => {
    const compiling = compileProgress(context);
    const generator = new Generator(policy.decoder, {
      slots: settings.batchSize,
      length: Math.min(policy.config.context, longest),
      ends: [...tokenizer.eosIds],
    });
    const compared = {
      policyPasses: new Passes(policy.decoder, { temperature }, compiling),
      referencePasses: new Passes(reference.decoder, { temperature }, compiling),
      valuePasses: new Passes(value.decoder, { scale: value.scale }, compiling),
    };
    const advantages = new Advantages(settings.whitenRewards);
    const optimizers = { policy: new Optimizer('policy', trained.parameters, settings),
      value: new Optimizer('value', trainedValue.parameters, settings) };
    const pretraining = mix && new LikelihoodTraining(policy, { dropout: 0, seed: settings.seed, microBatchTokens }, context);
    const update = new Update(policy, trained.parameters, value, optimizers, pretraining,
      { temperature, gamma: settings.gamma, microBatchTokens, emaDecay: settings.ema, compiling });
    return { generator, compared, advantages, optimizers, update };
  };
  // How long responses will be is not known: memory is planned, and taken, for full length.
  const upcoming = Array.from({ length: Math.min(iterations, 4) }, (_, iteration) =>
    Array.from({ length: Math.min(settings.batchSize, total - iteration * settings.batchSize) }, (_, i) =>
      fullRow(prompts.rows[promptOrder.at(iteration * settings.batchSize + i).item].ids, settings.maxNewTokens, i)));
  const minibatches = upcoming.flatMap((rows) => Array.from({ length: Math.ceil(rows.length / settings.minibatchSize) }, (_, i) =>
    rows.slice(i * settings.minibatchSize, (i + 1) * settings.minibatchSize)));
  const passesOf = ({ compared, update }: ReturnType<typeof work>, scorer: Scorer | undefined, budget: number): Upcoming[] => [
    ...update.upcoming(minibatches, mix && Array.from({ length: Math.min(mix.rows.length, settings.pretrainBatch) }, (_, i) => mix.rows.at(i))),
    ...Object.values(compared).map((each) => ({ passes: each, batches: upcoming.flatMap((rows) => [...microBatches(rows, budget)]) })),
    ...(scorer ? upcoming.map((rows) => scorer.upcoming(rows.map(({ ids }) => ids))) : []),
  ];
  const passes = choosePasses(settings, [policy.decoder, value.decoder], (tokens) => planMemory(() => work(tokens), (made) => {
    const scorer = reward.model && new Scorer(reward.model, tokens);
    // Decoding first: where its mirrors of large weights last, passes read them too.
    for (const rows of upcoming) made.generator.prepare(rows.map(({ ids }) => ids.subarray(0, ids.length - settings.maxNewTokens)));
    prepare(passesOf(made, scorer, tokens));
    for (const optimizer of Object.values(made.optimizers)) void optimizer.ready();
  }, [trained.parameters, trainedValue.parameters]));
  const { microBatchTokens } = passes;
  const folder = await beginRun(settings, context, opened, {
    rows: prompts.rows.length,
    tokens: total * longest,
    steps: iterations,
    parameters: trained.parameters.count,
    passes,
  }, { ...prompts.hashes, ...mix?.hashes });
  if (!folder) return;

  if (reward.scorer) reward.scorer.budget = microBatchTokens;
  const made = work(microBatchTokens);
  const { generator, compared, advantages, optimizers, update } = made;
  const decoding = generator.prepareStep(Math.min(settings.batchSize, total));
  await Promise.all([decoding, reserve(passesOf(made, reward.scorer, microBatchTokens))]);
  await update.startAverage();

  const parts = [
    { name: 'policy-model', weights: trained.parameters, flats: trained.flats },
    { name: 'value-model', weights: trainedValue.parameters, flats: trainedValue.flats },
    ...optimizers.policy.parts,
    ...optimizers.value.parts,
    ...(update.average ? [{ name: 'average', weights: trained.parameters, flats: update.average }] : []),
  ];
  const { policyPasses, referencePasses, valuePasses } = compared;
  const kept: Kept = { parts, passes: [policyPasses, referencePasses, valuePasses, update.policyPasses, update.valuePasses] };
  const controller = { beta: settings.beta, updates: 0 };
  const start = resume(kept, folder, (state) => Object.assign(controller, state.controller));
  const end = lastStep(start, iterations, settings, context);
  context.progress.start('ppo', { total: end, unit: 'iterations', from: start });

  for (let iteration = start; iteration < end; iteration++) {
    const began = performance.now();
    const count = Math.min(settings.batchSize, total - iteration * settings.batchSize);

    // 1. Rollout: one response each, from the full softmax at --temperature
    const chosen = Array.from({ length: count }, (_, i) => promptOrder.at(iteration * settings.batchSize + i));
    const episodes = await rollOut(generator, chosen.map(({ item, pass }) => ({ row: item, pass, ...prompts.rows[item] })), tokenizer, settings, iteration + 1);
    const rolled = performance.now();

    // 2. Score the sampled ids themselves, while step 3 goes on; a response cut off without EOS loses the penalty
    const scoring = reward.scores(episodes);
    scoring.catch(() => undefined); // told below

    // 3. Log-probabilities under the policy and the reference, and values, through the update's own forward pass
    const ranBefore = kept.passes.map(({ ran }) => ({ ...ran }));
    await compare(episodes, compared, policy, microBatchTokens);
    const scores = await scoring.catch(async (error) => {
      // A reward program has failed, or Ctrl-C has ended it. The policy is as it was before this iteration.
      kept.passes.forEach(({ ran }, i) => Object.assign(ran, ranBefore[i]));
      const stopped = error instanceof Interrupted;
      if (stopped || iteration > 0) await checkpointOnce(kept, folder, iteration, { controller });
      context.progress.end();
      if (stopped) throw new Interrupted(`stopped after iteration ${iteration}: go on with --resume`);
      if (iteration > 0) context.log(`${iteration} iterations are in the checkpoint: go on with --resume`);
      throw error;
    });
    episodes.forEach((e, i) => {
      e.score = scores[i] - (e.finish === 'length' ? settings.missingEosPenalty : 0);
    });

    // 4. and 5. Rewards a token with the KL penalty, advantages, whitening
    const numbers = { klCoef: controller.beta, discount: settings.discount, lambda: settings.gaeLambda, clip: settings.clip,
      valueClip: settings.valueClip ?? Infinity };
    const stats = await advantages.compute(episodes, numbers);
    const scored = performance.now();
    if (settings.saveRollouts) await saveRollouts(folder, iteration + 1, episodes);

    // 6. and 7. Minibatch updates of policy (with the pretraining term) and value model, and the moving average
    update.configure(numbers);
    const schedule = { schedule: settings.schedule, warmup: settings.warmup, totalSteps: iterations, minRatio: settings.minLrRatio };
    const rate = ppoMultiplier(iteration, schedule);
    const reads: (() => Promise<UpdateStats>)[] = [];
    for (let epoch = 0; epoch < settings.epochs; epoch++) {
      const order = settings.shuffle ? new RandomStream(settings.seed, 'minibatch', iteration, epoch).permutation(count)
        : Uint32Array.from({ length: count }, (_, i) => i);
      for (let first = 0; first < count; first += settings.minibatchSize) {
        const minibatch = [...order.subarray(first, first + settings.minibatchSize)].map((i) => episodes[i]);
        const rows = mix ? Array.from({ length: settings.pretrainBatch }, (_, i) =>
          mix.rows.at(textOrder!.at(controller.updates * settings.pretrainBatch + i).item)) : [];
        reads.push(await update.submit(++controller.updates, minibatch, rows, { policy: settings.lr * rate, value: settings.valueLr * rate }));
      }
    }
    const results: UpdateStats[] = [];
    for (const read of reads) results.push(await read());
    const ended = performance.now();

    const metrics = {
      episode: Math.min(total, (iteration + 1) * settings.batchSize),
      ...rolloutMetrics(episodes, stats, controller.beta),
      ...updateMetrics(results, mix !== undefined),
      lr: settings.lr * rate,
      'lr/value': settings.valueLr * rate,
      tokens: episodes.reduce((sum, e) => sum + e.ids.length, 0),
      'time/rollout': seconds(began, rolled),
      'time/score': seconds(rolled, scored),
      'time/update': seconds(scored, ended),
      seconds: seconds(began, ended),
    };
    if (results.some((r) => !r.finite)) {
      throw new RunError(`iteration ${iteration + 1}: a gradient is not finite`, 'lower --lr or --value-lr; the last checkpoint is untouched');
    }
    // Without variance in the returns there is nothing to explain: that one may be NaN, and is written as null.
    await checkFinite(iteration, { ...metrics, 'val/explained_var': 0 }, parts);
    if (settings.targetKl !== undefined) controller.beta = adaptBeta(controller.beta, stats.kl, settings.targetKl, count, settings.horizon);
    folder.metrics.append({ step: iteration + 1, ...metrics });
    context.progress.update({ done: iteration + 1,
      fields: { reward: metrics['objective/scores'].toFixed(3), KL: metrics['objective/kl'].toFixed(2), tokens: metrics['response_length/mean'].toFixed(1) } });

    const done = iteration + 1;
    const stopped = context.signal.aborted;
    const save = stopped || done === end && done < iterations || settings.saveEvery > 0 && done % settings.saveEvery === 0;
    if (save) await checkpoint(kept, folder, done, { controller }, stopped);
    if (stopped && done < end) {
      context.progress.end();
      throw new Interrupted(`stopped after iteration ${done}: go on with --resume`);
    }
  }
  context.progress.end();

  // The moving average is the result where there is one; the raw weights are kept beside it.
  const files = Object.fromEntries(tokenizer.files);
  await afterSteps(kept, folder, end, { controller }, async () => {
    await trainedValue.save(join(settings.out!, 'value'), files);
    if (update.average) await trained.save(join(settings.out!, 'raw'), files);
    await trained.save(settings.out!, files, update.average);
  });
  const summary = { steps: end, ...memoryReport(passes), padding: paddingShare(...kept.passes) };
  await folder.end(summary, end === iterations);
  await context.stdout.write(JSON.stringify({ command: 'ppo', out: settings.out, ...summary, ...lastMetrics(folder.metrics.path) }));
}

/** The row of a prompt and a response of full length, whatever they are: it begins as no other does, so that planned passes share nothing. */
const fullRow = (prompt: Int32Array, length: number, i: number) => ({
  ids: new Int32Array(prompt.length + length).fill(i),
  at: Array.from({ length }, (_, i) => prompt.length + i - 1),
});

/** β ← β (1 + error · episodes/horizon), error = clip(KL/target − 1, ±0.2) (Ziegler et al. 2019, section 2.2). */
export function adaptBeta(beta: number, kl: number, target: number, episodes: number, horizon: number): number {
  const error = Math.min(0.2, Math.max(-0.2, kl / target - 1));
  return beta * (1 + (error * episodes) / horizon);
}

/** Reads the prompts; each must leave room for a whole response in the context. */
async function readPrompts(settings: PpoSettings, tokenizer: Tokenizer, policy: Model, context: RunContext): Promise<{ rows: PromptRow[]; hashes: Record<string, string> }> {
  const room = policy.config.context - settings.maxNewTokens;
  if (room < 1) {
    throw new UsageError(`--max-new-tokens: ${settings.maxNewTokens} leaves no room for a prompt in the policy's context of ${policy.config.context}`);
  }
  const { rows, sources } = await collectRows(settings.prompts, (value): PromptRow => {
    const prompt = asPrompt(value);
    const ids = encodePrompt(tokenizer, prompt);
    if (ids.length <= room) return { prompt, ids };
    if (settings.truncate) return { prompt, ids: endOfPrompt(tokenizer, ids, room) };
    throw new RowTooLong(`the prompt has ${ids.length} tokens; with --max-new-tokens ${settings.maxNewTokens} the context has room for ${room}`);
  }, { skipBadRows: settings.skipBadRows, skipLong: settings.skipLong, warn: (line) => context.warn(line) });
  return { rows, hashes: hashesOf(sources) };
}

const seconds = (from: number, to: number): number => Number(((to - from) / 1000).toFixed(3));
