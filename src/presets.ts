/**
 * Published settings by option name. Options that are given win over them; what a preset leaves out keeps its
 * default.
 */
export type Preset = Record<string, number | string | boolean>;

// Sources: [I] Ouyang et al. 2022, "Training language models to follow instructions with human feedback" (InstructGPT);
// [Z] Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences": the sentiment task of its code
// (openai/lm-human-preferences: launch.py, train_reward.py, train_policy.py);
// [N] Huang et al. 2024, "The N+ Implementation Details of RLHF with PPO: A Case Study on TL;DR Summarization",
// which reproduces [S] Stiennon et al. 2020, "Learning to summarize from human feedback".

export const sftPresets: Record<string, Preset> = {
  instructgpt: {
    epochs: 16, // [I] section 3.5 and C.1
    lr: 9.65e-6, // [I] C.1, the 1.3B and 6B models (5.03e-6 for 175B)
    'batch-size': 32, // [I] C.1, the 1.3B and 6B models (8 for 175B)
    schedule: 'cosine', // [I] C.1
    'min-lr-ratio': 0.1, // [I] C.1: down to 10 % of the peak
    warmup: 0, // [I] C.1: none
    dropout: 0.2, // [I] C.1: on the residual stream
    'adam-beta1': 0.9, // [I] C, all models
    'adam-beta2': 0.95, // [I] C, all models
    // Read only with --pretrain: the policies that PPO starts from saw 10 % pretraining data.
    'pretrain-fraction': 0.1, // [I] C.3
  },
  tldr: {
    epochs: 1, // [N] table of SFT hyperparameters
    lr: 3e-6, // [N] same table
    'batch-size': 128, // [N] same table
    schedule: 'cosine', // [N] same table
    'min-lr-ratio': 0, // [N] the library's cosine ends at 0
    warmup: 0, // [N] none
    'adam-beta1': 0.9, // [N] the library's default
    'adam-beta2': 0.999, // [N] the library's default
    'adam-eps': 1e-5, // [N] same table
  },
};

export const rmPresets: Record<string, Preset> = {
  instructgpt: {
    epochs: 1, // [I] C.2: more overfit
    lr: 9e-6, // [I] C.2
    'batch-size': 64, // [I] C.2: prompts, each with all its responses
    schedule: 'cosine', // [I] C.2
    'min-lr-ratio': 0.1, // [I] C.2: down to 10 % of the peak
    warmup: 0, // [I] names none
    'adam-beta1': 0.9, // [I] C, all models
    'adam-beta2': 0.95, // [I] C, all models
  },
  // Ziegler's loss is a softmax over four responses of which people chose the best; ours is over pairs.
  ziegler2019: {
    epochs: 1, // [Z] train_reward.py: each label once
    lr: 5e-5, // [Z] launch.py
    'batch-size': 32, // [Z] launch.py
    k: 4, // [Z] launch.py: best_of_4
    schedule: 'linear', // [Z] train_reward.py: annealed
    'min-lr-ratio': 0, // [Z] train_reward.py: to 0
    warmup: 0, // [Z] train_reward.py: none
    'adam-beta1': 0.9, // [Z] Adam's default
    'adam-beta2': 0.999, // [Z] Adam's default
    'adam-eps': 1e-5, // [Z] its optimiser's setting
  },
  tldr: {
    epochs: 1, // [N] table of reward model hyperparameters
    lr: 3e-6, // [N] same table
    'batch-size': 64, // [N] same table; K = 2
    schedule: 'cosine', // [N] same table
    'min-lr-ratio': 0, // [N] the library's cosine ends at 0
    warmup: 0, // [N] none
    'adam-beta1': 0.9, // [N] the library's default
    'adam-beta2': 0.999, // [N] the library's default
    'adam-eps': 1e-5, // [N] same table
  },
};

export const ppoPresets: Record<string, Preset> = {
  // The responses' length limit is left to --max-new-tokens: it must fit the model's context.
  instructgpt: {
    beta: 0.02, // [I] C.4
    gamma: 27.8, // [I] C.4: PPO-ptx, needs --pretrain
    'pretrain-batch': 512, // [I] C.4: eight times the episodes of a minibatch
    episodes: 256000, // [I] C.4
    'batch-size': 512, // [I] C.4
    'minibatch-size': 64, // [I] C.4
    epochs: 1, // [I] C.4: one pass over the minibatches
    schedule: 'constant', // [I] C.4
    warmup: 10, // [I] C.4: from a tenth of the peak over ten iterations
    // Not printed for the released policies: [I] E scans 2.55e-6 to 2.55e-5, where PPO without γ diverged above
    // 8.05e-6.
    lr: 3e-6,
    'value-lr': 9e-6, // [I] C.4: 9e-6 for the 1.3B and 6B policies' value function
    clip: 0.2, // [I] C.4
    'value-clip': 0.2, // not printed; Schulman et al.'s code
    'gae-lambda': 0.95, // not printed; Schulman et al. 2017
    discount: 1, // [I] C.4: no discount
    temperature: 1, // [I] C.4: rollouts are sampled at 1
    'max-grad-norm': 1, // not printed; the default
    'adam-beta1': 0.9, // [I] C, all models
    'adam-beta2': 0.95, // [I] C, all models
    'adam-eps': 1e-5, // not printed; the default of this stage
    ema: 0.992, // [I] C.4
  },
  ziegler2019: {
    beta: 0.15, // [Z] launch.py: where the adaptive coefficient starts
    'target-kl': 6, // [Z] launch.py: nats a response
    horizon: 10000, // [Z] train_policy.py: episodes
    gamma: 0, // [Z] no pretraining term
    episodes: 1000000, // [Z] launch.py
    'batch-size': 512, // [Z] launch.py
    'minibatch-size': 512, // [Z] train_policy.py: one minibatch a pass
    epochs: 4, // [Z] train_policy.py
    lr: 1e-5, // [Z] launch.py
    'value-lr': 1e-5, // [Z] its value function shares the policy's network and rate; here it is a network of its own
    schedule: 'linear', // [Z] train_policy.py: annealed
    'min-lr-ratio': 0, // [Z] train_policy.py: to 0
    warmup: 0, // [Z] train_policy.py: none
    clip: 0.2, // [Z] train_policy.py
    'value-clip': 0.2, // [Z] train_policy.py
    'gae-lambda': 0.95, // [Z] train_policy.py
    discount: 1, // [Z] train_policy.py
    temperature: 0.7, // [Z] launch.py
    'max-new-tokens': 24, // [Z] launch.py
    'whiten-rewards': true, // [Z] train_policy.py
    'missing-eos-penalty': 0, // [Z] its responses have a fixed length
    'max-grad-norm': 0, // [Z] gradients are not clipped
    'adam-beta1': 0.9, // [Z] Adam's default
    'adam-beta2': 0.999, // [Z] Adam's default
    'adam-eps': 1e-5, // [Z] its optimiser's setting
    ema: 0, // [Z] no moving average
  },
  tldr: {
    beta: 0.05, // [S] section 3.4 and [N] table of PPO hyperparameters
    gamma: 0, // [S], [N] no pretraining term
    episodes: 1000000, // [N] same table
    'batch-size': 512, // [N] same table
    'minibatch-size': 512, // [N] same table: one minibatch a pass
    epochs: 4, // [N] same table
    lr: 3e-6, // [N] same table
    'value-lr': 3e-6, // [N] policy and value are separate networks under one rate
    schedule: 'linear', // [N] same table
    'min-lr-ratio': 0, // [N] to 0
    warmup: 0, // [N] none
    clip: 0.2, // [N] same table
    'value-clip': 0.2, // [N] same table
    'gae-lambda': 0.95, // [N] same table
    discount: 1, // [N] same table
    temperature: 0.7, // [N] same table
    'max-new-tokens': 53, // [N] its response length
    'missing-eos-penalty': 1, // [N] "EOS trick": it sets such a score to -1; TRL's rule, used here, subtracts
    'whiten-rewards': false, // [N] same table
    'max-grad-norm': 0, // [N] gradients are not clipped
    ema: 0, // [N] no moving average
    'adam-beta1': 0.9, // [N] the library's default
    'adam-beta2': 0.999, // [N] the library's default
    'adam-eps': 1e-5, // [N] same table
  },
};
