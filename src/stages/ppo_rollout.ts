import { gae, klRewards, PPO_SETTINGS_LENGTH, ppoSettings, whiten, type PpoSettings as PpoNumbers } from '../gpu/ops/ppo.ts';
import { record, type Program } from '../gpu/program.ts';
import { destroy, download, persistent, scratch, upload, vector, type Tensor } from '../gpu/tensor.ts';
import { bucket } from '../model/batch.ts';
import { MOST_PASSES } from '../model/passes.ts';
import { Recent } from '../model/recent.ts';

/** One response of the policy with all that is known of it; the lists have an entry a response token, EOS included. */
export interface Episode {
  prompt: unknown;
  promptIds: ArrayLike<number>;
  completion: string;
  /** Prompt and response. */
  ids: Int32Array;
  finish: 'stop' | 'length';
  /** r, with the bias added and the missing-EOS penalty subtracted. */
  score: number;
  logprobs: Float32Array;
  refLogprobs: Float32Array;
  /** Entropy of the policy at each token, nats. */
  entropies: Float32Array;
  values: Float32Array;
  rewards: Float32Array;
  /** Whitened over the batch. */
  advantages: Float32Array;
  returns: Float32Array;
}

export interface AdvantageStats {
  /** Mean over episodes of Σ k1 and Σ k3, nats a sequence, and of Σ −β k1. */
  kl: number;
  klK3: number;
  nonScoreReward: number;
  /** Mean and variance of the returns over tokens. */
  returnsMean: number;
  returnsVar: number;
}

interface Tensors {
  logp: Tensor;
  refLogp: Tensor;
  values: Tensor;
  scores: Tensor;
  episodes: Tensor;
  mask: Tensor;
  rewards: Tensor;
  returns: Tensor;
  advantages: Tensor;
  stats: Tensor;
  returnStats: Tensor;
}

/** Per-token rewards with the KL penalty, advantages and returns of a batch of episodes (pipeline steps 4 and 5), on the device. */
export class Advantages {
  private readonly settings = vector(PPO_SETTINGS_LENGTH);
  private readonly made = new Recent<Promise<Program<Tensors>>>(MOST_PASSES, (made) => void made.then((program) => {
    program.discard();
    destroy(...Object.values(program.result));
  }));

  constructor(private readonly whitenRewards: boolean) {}

  /** Fills in rewards, advantages and returns of the episodes. */
  async compute(episodes: readonly Episode[], numbers: PpoNumbers): Promise<AdvantageStats> {
    const tokens = episodes.reduce((sum, e) => sum + e.logprobs.length, 0);
    const size = bucket(tokens);
    const rows = Math.ceil(episodes.length / 8) * 8;
    const ready = await this.made.get(`${size}/${rows}`, () => this.record(size, rows));
    const io = ready.result;
    upload(this.settings, ppoSettings(numbers));
    const spans = new Uint32Array(rows * 2);
    let at = 0;
    episodes.forEach((e, i) => {
      spans.set([at, e.logprobs.length], 2 * i);
      at += e.logprobs.length;
    });
    const joined = (field: 'logprobs' | 'refLogprobs' | 'values'): Float32Array => {
      const all = new Float32Array(size);
      episodes.forEach((e, i) => all.set(e[field], spans[2 * i]));
      return all;
    };
    upload(io.logp, joined('logprobs'));
    upload(io.refLogp, joined('refLogprobs'));
    upload(io.values, joined('values'));
    const scores = new Float32Array(rows);
    scores.set(episodes.map((e) => e.score));
    upload(io.scores, scores);
    upload(io.episodes, spans);
    upload(io.mask, new Float32Array(size).fill(1, 0, tokens));
    ready.run();
    const [rewards, advantages, returns, stats, returnStats] = (await download(io.rewards, io.advantages, io.returns, io.stats, io.returnStats))
      .map((bytes) => new Float32Array(bytes));
    episodes.forEach((e, i) => {
      const [first, length] = [spans[2 * i], spans[2 * i + 1]];
      e.rewards = rewards.slice(first, first + length);
      e.advantages = advantages.slice(first, first + length);
      e.returns = returns.slice(first, first + length);
    });
    const mean = (column: number): number => episodes.reduce((sum, _, i) => sum + stats[4 * i + column], 0) / episodes.length;
    return { kl: mean(0), klK3: mean(1), nonScoreReward: mean(2), returnsMean: returnStats[1], returnsVar: returnStats[2] };
  }

  private record(size: number, rows: number): Promise<Program<Tensors>> {
    const io: Tensors = {
      logp: vector(size), refLogp: vector(size), values: vector(size), scores: vector(rows), episodes: persistent(rows, 2, 2),
      mask: vector(size), rewards: vector(size), returns: vector(size), advantages: vector(size), stats: persistent(rows, 4),
      returnStats: vector(4),
    };
    const { settings } = this;
    return record(() => {
      if (this.whitenRewards) {
        const perToken = scratch(size, 1, 1);
        klRewards({ ...io, settings, rewards: perToken });
        whiten({ values: perToken, mask: io.mask, out: io.rewards, stats: scratch(4, 1, 1), keepMean: true });
      } else {
        klRewards({ ...io, settings });
      }
      const raw = scratch(size, 1, 1);
      gae({ ...io, settings, advantages: raw });
      whiten({ values: raw, mask: io.mask, out: io.advantages, stats: scratch(4, 1, 1) });
      // The whitening kernel also gives mean and variance over the mask, which is all that is wanted of the returns.
      whiten({ values: io.returns, mask: io.mask, out: scratch(size, 1, 1), stats: io.returnStats });
      return io;
    }).ready();
  }
}
