// The tests of kernels whose lanes reduce or share numbers, for the files that repeat them in another order.
import './decode_kernels.test.ts';
import './norm.test.ts';
import './ppo_objective.test.ts';
import './ppo_rewards.test.ts';
import './ranking_loss.test.ts';
import './sampler.test.ts';
import './scalar_head.test.ts';
import './token_logprob.test.ts';
