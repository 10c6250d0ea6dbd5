import source from '../../../kernels/ranking_loss.wgsl';
import { clear, launch } from '../program.ts';
import type { Tensor } from '../tensor.ts';
import { grid, type Lanes, rowKernel, rowLanes } from './reduction.ts';

/** What the ranking loss reads and writes: R responses, prompt by prompt; P prompts, padding has weight 0 or K = 0. */
export interface RankingLoss {
  /** [R] the reward of each response. */
  rewards: Tensor;
  /** [R] its rank: lower is better, equal ranks are ties. */
  ranks: Tensor;
  /** [P,2] u32, stride 2: first response, number of responses K. */
  prompts: Tensor;
  /** [P] subtracted from r_w − r_l in every pair. */
  margins: Tensor;
  /** [P] 1 / (prompts with a strict pair in the whole batch). */
  weights: Tensor;
  /** [R] out: gradient of Σ weights·loss; zero for responses of no prompt. */
  dRewards: Tensor;
  /** [P,4] out: loss (mean over strict pairs), strict pairs, correctly ordered ones, Σ r_w − r_l over strict pairs. */
  stats: Tensor;
}

/**
 * −1/n_pairs Σ log σ(r_w − r_l − margin) over the strictly ranked pairs of each prompt (Ouyang et al. 2022, section
 * 3.5, equation 1; ties dropped), and its gradient. A prompt without a strict pair has loss and gradient 0.
 */
export function rankingLoss(io: RankingLoss, lanes: Lanes = rowLanes()): void {
  const prompts = io.prompts.rows;
  clear(io.dRewards);
  if (prompts === 0) return;
  const { made, rows } = rowKernel('ranking_loss', source, lanes);
  launch(
    made,
    [io.rewards, io.ranks, io.prompts, io.margins, io.weights, io.dRewards, io.stats],
    [prompts],
    grid(Math.ceil(prompts / rows)),
  );
}
