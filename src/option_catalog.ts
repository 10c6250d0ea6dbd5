import {
  choice,
  file,
  files,
  flag,
  folder,
  integer,
  number,
  path,
  string,
  type Option,
  type Shard,
} from './option_types.ts';

/**
 * Every option of the program, once. Help, parsing, checks, `--config` keys, presets and the settings in rlhf.json all
 * come from here; the defaults that differ between commands (pipeline.md, section 0) stand in
 * options.ts.
 */
export const all = {
  // Models
  model: folder('Models', 'Model to start from or to run: a Hugging Face folder.'),
  policy: folder('Models', 'Model to train, as train-sft wrote it.'),
  reference: folder('Models', 'Frozen model that the KL penalty is measured against.', { defaultText: 'the policy' }),
  reward: {
    type: 'reward',
    group: 'Models',
    value: 'DIR|cmd:PROGRAM',
    text: 'Reward model, or a program that reads completions and writes scored rows (run through sh -c).',
  } as Option<string | undefined>,
  value: folder('Models', 'Model that the value model starts from.', { defaultText: 'the reward model' }),
  baseline: folder('Models', 'Model that the evaluated one is compared with.'),
  tokenizer: folder('Models', 'Folder of a tokenizer to use; without it one is trained from the text.'),
  'chat-template': file('Models', "Jinja template for messages, in place of the model's own."),

  // Data
  data: files('Data', 'Input rows (.jsonl, .jsonl.gz); - is standard input; may be repeated.'),
  'eval-data': files('Data', 'Held-out rows, evaluated every --eval-every steps and at the end of an epoch.'),
  prompts: files('Data', 'Prompts to answer; - is standard input; may be repeated.'),
  demonstrations: files('Data', 'Demonstrations whose mean reward becomes 0.', {
    defaultText: 'best-ranked training responses',
  }),
  pretrain: files('Data', 'Text (.jsonl, .txt) of the pretraining distribution, mixed into training.'),
  'tokenizer-data': files('Data', 'Text that the tokenizer is trained on.', { defaultText: 'the --data files' }),
  'skip-bad-rows': flag('Data', 'Drop and count bad rows instead of stopping at them.'),
  truncate: flag('Data', 'Cut rows that are longer than the context.'),
  'skip-long': flag('Data', 'Drop and count rows that are longer than the context.'),
  shuffle: flag('Data', 'Keep the order of the files, in place of a seeded random one.', true),
  packing: flag('Data', 'Pack several demonstrations into a row of context length, with attention kept apart.'),
  shard: {
    type: 'shard',
    group: 'Data',
    value: 'I/N',
    text: 'Handle only the rows j with j mod N = I (I from 0).',
    default: { index: 0, count: 1 },
  } as Option<Shard>,

  // Output
  out: path('Output', 'Folder that the run writes.', { value: 'DIR' }),
  'save-every': integer('Output', 'Steps between checkpoints (0: only at the end and when stopped).', { min: 0 }),
  'eval-every': integer('Output', 'Steps between evaluations (0: at the end of each epoch).', { min: 0 }),
  resume: flag('Output', "Go on from the run's last checkpoint."),
  overwrite: flag('Output', 'Replace what the output already holds.'),
  'save-rollouts': flag('Output', 'Write every episode to rollouts/step-NNNNNN.jsonl.'),

  // Architecture
  arch: choice('Architecture', 'Family of a new model.', ['gpt2', 'llama']),
  layers: integer('Architecture', 'Blocks.', { min: 1, max: 1024 }),
  width: integer('Architecture', 'Channels of the residual stream.', { min: 1, max: 65536 }),
  heads: integer('Architecture', 'Query heads; they divide the width.', { min: 1, max: 1024 }),
  'kv-heads': integer('Architecture', 'Key and value heads; they divide --heads (llama).', {
    min: 1,
    max: 1024,
    defaultText: '--heads',
  }),
  hidden: integer('Architecture', 'Channels inside the MLP.', {
    min: 1,
    defaultText: '4 × width for gpt2, 8/3 × width for llama',
  }),
  context: integer('Architecture', 'Longest row in tokens.', { min: 2, max: 1048576 }),
  'vocab-size': integer('Architecture', 'Entries of a tokenizer that is trained here.', { min: 259, max: 1048576 }),

  // Schedule
  lr: number('Schedule', 'Peak learning rate (0: the weights stay).', { min: 0, max: 10 }),
  'value-lr': number('Schedule', "The value model's peak learning rate.", { min: 0, max: 10 }),
  schedule: choice('Schedule', 'Course of the learning rate after the warm-up.', ['constant', 'linear', 'cosine']),
  warmup: integer('Schedule', 'Steps over which the rate rises to its peak.', { min: 0 }),
  'min-lr-ratio': number('Schedule', 'Share of the peak at which cosine and linear end.', { min: 0, max: 1 }),
  epochs: number('Schedule', 'Passes over the data.', { above: 0 }),
  'max-steps': integer('Schedule', 'Stop after this step; the schedule still spans the whole run.', { min: 0 }),

  // Optimiser
  'batch-size': integer('Optimiser', 'Rows a step.', { min: 1 }),
  'minibatch-size': integer('Optimiser', 'Episodes an optimiser step.', { min: 1 }),
  'micro-batch-tokens': integer('Optimiser', 'Padded tokens in one forward pass.', {
    min: 1,
    defaultText: 'fitted to --memory',
  }),
  'weight-decay': number('Optimiser', 'Decoupled weight decay on tensors of two dimensions.', { min: 0 }),
  'adam-beta1': number('Optimiser', 'Decay of the first moment.', { min: 0, below: 1 }),
  'adam-beta2': number('Optimiser', 'Decay of the second moment.', { min: 0, below: 1 }),
  'adam-eps': number('Optimiser', 'Added to the root of the second moment.', { above: 0 }),
  'max-grad-norm': number('Optimiser', 'Global gradient norm above which gradients are scaled down (0: never).', {
    min: 0,
  }),
  dropout: number('Optimiser', 'Residual dropout: on what attention and the MLP add to the residual stream.', {
    min: 0,
    below: 1,
  }),

  // Demonstrations
  'select-by-reward': folder(
    'Demonstrations',
    'Keep the epoch whose answers this reward model likes best, not the lowest loss.',
  ),

  // Pretraining mix
  'pretrain-fraction': number('Pretraining mix', "Pretraining tokens as a share of the demonstrations' tokens.", {
    min: 0,
    max: 100,
  }),
  'pretrain-weight': number('Pretraining mix', 'Weight of a pretraining row beside the batch.', { above: 0 }),
  'pretrain-batch': integer('Pretraining mix', 'Pretraining rows of context length a minibatch.', { min: 1 }),
  gamma: number('Pretraining mix', 'Pretraining coefficient γ.', { min: 0, defaultText: '1 with --pretrain, else 0' }),

  // Reward model
  k: integer('Reward model', 'Responses a prompt.', { min: 1 }),

  // PPO
  beta: number('PPO', 'KL coefficient β (its first value with --target-kl).', { min: 0 }),
  'target-kl': number('PPO', 'Adapt β to keep the KL of a response near this many nats.', { above: 0 }),
  horizon: integer('PPO', 'Episodes over which the adaptive β reacts.', { min: 1 }),
  episodes: integer('PPO', 'Responses to sample in the whole run.', {
    min: 1,
    defaultText: 'one pass over the prompts',
  }),
  clip: number('PPO', "Range ε of the policy's probability ratio.", { above: 0 }),
  'value-clip': number('PPO', 'Range of the value around its old value.', { above: 0 }),
  'gae-lambda': number('PPO', 'λ of the generalised advantage estimate.', { min: 0, max: 1 }),
  discount: number('PPO', 'Discount of rewards by token.', { min: 0, max: 1 }),
  'missing-eos-penalty': number('PPO', 'Subtracted from the score of a response that was cut off.', {}),
  'whiten-rewards': flag('PPO', 'Scale the rewards of a batch to unit variance.'),
  ema: number('PPO', "Decay of the weights' moving average an optimiser step (0: off).", { min: 0, below: 1 }),

  // Sampling
  temperature: number('Sampling', 'Divides the logits.', { above: 0, max: 100 }),
  'top-k': integer('Sampling', 'Sample from the k most likely tokens (0: all).', { min: 0 }),
  'top-p': number('Sampling', 'Sample from the smallest set of tokens with this probability.', { above: 0, max: 1 }),
  'max-new-tokens': integer('Sampling', 'Longest response in tokens, EOS included.', { min: 1 }),
  stop: {
    type: 'strings',
    group: 'Sampling',
    value: 'TEXT',
    text: 'End a response before this text; may be repeated.',
    default: [],
  } as Option<string[]>,
  greedy: flag('Sampling', 'Take the most likely token every time.'),
  system: string('Sampling', 'System message of the conversation.'),

  // Evaluation
  bootstrap: integer('Evaluation', 'Resamples behind each confidence interval.', { min: 10, max: 1000000 }),
  samples: files('Evaluation', 'Completions to show side by side; may be repeated.'),
  table: file('Evaluation', 'Table to show, as JSON.'),
  against: file('Benchmark', "Earlier run's lines to print ratios to."),

  // LoRA
  'lora-rank': integer('LoRA', 'Train an adapter of this rank in place of the weights (0: train the weights).', {
    min: 0,
    max: 4096,
  }),
  'lora-alpha': number('LoRA', 'The adapter is scaled by alpha / rank.', { above: 0 }),
  'lora-targets': {
    type: 'list',
    group: 'LoRA',
    value: 'NAME,…',
    text: "Matrices that get an adapter, by the last part of the tensor's name.",
    defaultText: 'the attention projections',
  } as Option<string[] | undefined>,

  // Labeling
  labeler: string('Labeling', 'Name written beside each ranking.', { value: 'NAME' }),
  port: integer('Labeling', 'Port of the page on this machine (0: any free one).', { min: 0, max: 65535 }),
  terminal: flag('Labeling', 'Rank in the terminal, without a browser.'),
  agreement: flag('Labeling', 'Print how far the labelers of the given rankings agree, and stop.'),

  // Benchmark
  batch: integer('Benchmark', 'Rows of a batch.', { min: 1 }),
  length: integer('Benchmark', 'Tokens of a row.', { min: 1 }),
  steps: integer('Benchmark', 'Timed repetitions.', { min: 1 }),
  'self-test': flag('Benchmark', 'Compare every kernel with its CPU reference.'),

  // Import and export
  gguf: choice('Output', 'Write a GGUF file with this storage type.', ['f32', 'f16', 'q8_0']),
  merge: flag('Output', "Add a LoRA adapter to its model's weights."),

  // Run and device
  seed: integer('Run', 'Fixes everything random.', { min: 0, max: 4294967295 }),
  config: file('Run', 'JSON object with options by name; the command line wins.'),
  preset: string('Run', 'Published settings: options that are given win over them.', { value: 'NAME' }),
  'dry-run': flag('Run', 'Show the resolved settings and what the run will cost, then stop.'),
  quiet: flag('Run', 'No progress and no notes on standard error.'),
  device: string('Device', "Part of the adapter's name, as rlhf doctor lists them.", { value: 'NAME' }),
  memory: {
    type: 'size',
    group: 'Device',
    value: 'SIZE',
    text: 'Device memory to stay within, such as 8G.',
    min: 1,
    defaultText: 'by adapter',
  } as Option<number | undefined>,
  dtype: choice('Device', 'Storage of weights and activations; sums are always f32.', ['f32', 'f16']),
};
