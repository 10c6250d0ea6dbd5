import {
  choice, file, files, flag, folder, integer, number, path, requiring, string, withDefaults,
  type Option, type SettingsOf, type Shard,
} from './option_types.ts';

/**
 * Every option of the program, once. Help, parsing, checks, `--config` keys, presets and the settings in rlhf.json all come from here;
 * the defaults that differ between commands (pipeline.md, section 0) stand in the commands' tables below.
 */
const all = {
  // Models
  model: folder('Models', 'Model to start from or to run: a Hugging Face folder.'),
  policy: folder('Models', 'Model to train, as train-sft wrote it.'),
  reference: folder('Models', 'Frozen model that the KL penalty is measured against.', { defaultText: 'the policy' }),
  reward: {
    type: 'reward', group: 'Models', value: 'DIR|cmd:PROGRAM',
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
  demonstrations: files('Data', 'Demonstrations whose mean reward becomes 0.', { defaultText: 'best-ranked training responses' }),
  pretrain: files('Data', 'Text (.jsonl, .txt) of the pretraining distribution, mixed into training.'),
  'tokenizer-data': files('Data', 'Text that the tokenizer is trained on.', { defaultText: 'the --data files' }),
  'skip-bad-rows': flag('Data', 'Drop and count bad rows instead of stopping at them.'),
  truncate: flag('Data', 'Cut rows that are longer than the context.'),
  'skip-long': flag('Data', 'Drop and count rows that are longer than the context.'),
  shuffle: flag('Data', 'Take the rows in a seeded random order; --no-shuffle keeps the order of the files.', true),
  packing: flag('Data', 'Pack several demonstrations into a row of context length, with attention kept apart.'),
  shard: {
    type: 'shard', group: 'Data', value: 'I/N', text: 'Handle only the rows j with j mod N = I (I from 0).', default: { index: 0, count: 1 },
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
  'kv-heads': integer('Architecture', 'Key and value heads; they divide --heads (llama).', { min: 1, max: 1024, defaultText: '--heads' }),
  hidden: integer('Architecture', 'Channels inside the MLP.', { min: 1, defaultText: '4 × width for gpt2, 8/3 × width for llama' }),
  context: integer('Architecture', 'Longest row in tokens.', { min: 2, max: 1048576 }),
  'vocab-size': integer('Architecture', 'Entries of a tokenizer that is trained here.', { min: 259, max: 1048576 }),

  // Schedule
  lr: number('Schedule', 'Peak learning rate.', { above: 0, max: 10 }),
  'value-lr': number('Schedule', "The value model's peak learning rate.", { above: 0, max: 10 }),
  schedule: choice('Schedule', 'Course of the learning rate after the warm-up.', ['constant', 'linear', 'cosine']),
  warmup: integer('Schedule', 'Steps over which the rate rises to its peak.', { min: 0 }),
  'min-lr-ratio': number('Schedule', 'Share of the peak at which cosine and linear end.', { min: 0, max: 1 }),
  epochs: number('Schedule', 'Passes over the data.', { above: 0 }),
  'max-steps': integer('Schedule', 'Stop after this step; the schedule still spans the whole run.', { min: 1 }),

  // Optimiser
  'batch-size': integer('Optimiser', 'Rows a step.', { min: 1 }),
  'minibatch-size': integer('Optimiser', 'Episodes an optimiser step.', { min: 1 }),
  'micro-batch-tokens': integer('Optimiser', 'Padded tokens in one forward pass.', { min: 1, defaultText: 'fitted to --memory' }),
  'weight-decay': number('Optimiser', 'Decoupled weight decay on tensors of two dimensions.', { min: 0 }),
  'adam-beta1': number('Optimiser', 'Decay of the first moment.', { min: 0, below: 1 }),
  'adam-beta2': number('Optimiser', 'Decay of the second moment.', { min: 0, below: 1 }),
  'adam-eps': number('Optimiser', 'Added to the root of the second moment.', { above: 0 }),
  'max-grad-norm': number('Optimiser', 'Global gradient norm above which gradients are scaled down (0: never).', { min: 0 }),
  dropout: number('Optimiser', 'Dropout on the residual stream, the embeddings and the attention output.', { min: 0, below: 1 }),

  // Demonstrations
  'select-by-reward': folder('Demonstrations', 'Keep the epoch whose answers this reward model likes best, not the lowest loss.'),

  // Pretraining mix
  'pretrain-fraction': number('Pretraining mix', "Pretraining tokens as a share of the demonstrations' tokens.", { min: 0, max: 100 }),
  'pretrain-weight': number('Pretraining mix', 'Weight of a pretraining row beside the batch.', { min: 0 }),
  'pretrain-batch': integer('Pretraining mix', 'Pretraining rows of context length a minibatch.', { min: 1 }),
  gamma: number('Pretraining mix', 'Pretraining coefficient γ.', { min: 0, defaultText: '1 with --pretrain, else 0' }),

  // Reward model
  k: integer('Reward model', 'Responses a prompt.', { min: 1 }),

  // PPO
  beta: number('PPO', 'KL coefficient β (its first value with --target-kl).', { min: 0 }),
  'target-kl': number('PPO', 'Adapt β to keep the KL of a response near this many nats.', { above: 0 }),
  horizon: integer('PPO', 'Episodes over which the adaptive β reacts.', { min: 1 }),
  episodes: integer('PPO', 'Responses to sample in the whole run.', { min: 1, defaultText: 'one pass over the prompts' }),
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
  stop: { type: 'strings', group: 'Sampling', value: 'TEXT', text: 'End a response before this text; may be repeated.', default: [] } as Option<string[]>,
  greedy: flag('Sampling', 'Take the most likely token every time.'),
  system: string('Sampling', 'System message of the conversation.'),

  // Evaluation
  bootstrap: integer('Evaluation', 'Resamples behind each confidence interval.', { min: 10, max: 1000000 }),
  samples: files('Evaluation', 'Completions to show side by side; may be repeated.'),
  table: file('Evaluation', 'Table to show, as JSON.'),
  against: file('Benchmark', "Earlier run's lines to print ratios to."),

  // LoRA
  'lora-rank': integer('LoRA', 'Train an adapter of this rank in place of the weights (0: train the weights).', { min: 0, max: 4096 }),
  'lora-alpha': number('LoRA', 'The adapter is scaled by alpha / rank.', { above: 0 }),
  'lora-targets': {
    type: 'list', group: 'LoRA', value: 'NAME,…', text: "Matrices that get an adapter, by the last part of the tensor's name.",
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
    type: 'size', group: 'Device', value: 'SIZE', text: 'Device memory to stay within, such as 8G.', min: 1, defaultText: 'by adapter',
  } as Option<number | undefined>,
  dtype: choice('Device', 'Storage of weights and activations; sums are always f32.', ['f32', 'f16']),
};

function pick<K extends keyof typeof all>(...names: K[]): Pick<typeof all, K> {
  return Object.fromEntries(names.map((name) => [name, all[name]])) as Pick<typeof all, K>;
}

const run = pick('config', 'quiet');
const device = withDefaults(pick('device', 'memory', 'dtype', 'seed'), { dtype: 'f32', seed: 0 });
const rowRules = pick('skip-bad-rows', 'truncate', 'skip-long', 'chat-template');
const decoding = withDefaults(pick('temperature', 'top-k', 'top-p', 'max-new-tokens', 'stop', 'greedy'), {
  temperature: 1, 'top-k': 0, 'top-p': 1, 'max-new-tokens': 128,
});

/** Options of all training commands; the defaults are train-sft's. */
const training = {
  ...requiring(pick('out'), 'out'),
  ...withDefaults(
    pick(
      'lr', 'schedule', 'warmup', 'min-lr-ratio', 'epochs', 'batch-size', 'micro-batch-tokens', 'max-steps', 'weight-decay', 'adam-beta1',
      'adam-beta2', 'adam-eps', 'max-grad-norm', 'shuffle', 'save-every', 'eval-every', 'resume', 'overwrite', 'lora-rank', 'lora-alpha',
      'lora-targets', 'preset', 'dry-run',
    ),
    {
      lr: 2e-5, schedule: 'cosine', warmup: 0, 'min-lr-ratio': 0.1, epochs: 3, 'batch-size': 32, 'weight-decay': 0, 'adam-beta1': 0.9,
      'adam-beta2': 0.95, 'adam-eps': 1e-8, 'max-grad-norm': 1, 'save-every': 0, 'eval-every': 0, 'lora-rank': 0, 'lora-alpha': 16,
    },
  ),
  ...rowRules, ...run, ...device,
};

export const pretrainOptions = withDefaults(
  {
    ...requiring(pick('data'), 'data'),
    ...pick('model', 'tokenizer', 'eval-data', 'tokenizer-data', 'dropout', 'arch', 'layers', 'width', 'heads', 'kv-heads', 'hidden'),
    ...pick('context', 'vocab-size'), ...training,
  },
  {
    lr: 1e-3, epochs: 1, 'weight-decay': 0.1, dropout: 0, arch: 'llama', layers: 4, width: 128, heads: 4, context: 256, 'vocab-size': 1024,
  },
);

export const sftOptions = withDefaults(
  {
    ...requiring(pick('model', 'data'), 'model', 'data'),
    ...pick('eval-data', 'dropout', 'packing', 'pretrain', 'pretrain-fraction', 'pretrain-weight', 'select-by-reward'),
    ...pick('max-new-tokens'), ...training,
  },
  { dropout: 0, 'pretrain-fraction': 0.1, 'pretrain-weight': 1, 'max-new-tokens': 128 },
);

export const rmOptions = withDefaults(
  {
    ...requiring(pick('model', 'data'), 'model', 'data'),
    ...pick('k', 'eval-data', 'demonstrations', 'dropout', 'bootstrap'), ...training,
    k: { ...all.k, text: 'At most this many responses of each prompt, drawn anew each epoch.', min: 2, defaultText: 'all' },
    'batch-size': { ...training['batch-size'], text: 'Prompts a step.' },
  },
  { lr: 9e-6, epochs: 1, 'batch-size': 64, dropout: 0, bootstrap: 1000 },
);

export const ppoOptions = withDefaults(
  {
    ...requiring(pick('policy', 'reward', 'prompts'), 'policy', 'reward', 'prompts'),
    ...pick(
      'reference', 'value', 'pretrain', 'pretrain-batch', 'gamma', 'beta', 'target-kl', 'horizon', 'episodes', 'minibatch-size', 'value-lr',
      'clip', 'value-clip', 'gae-lambda', 'discount', 'temperature', 'max-new-tokens', 'missing-eos-penalty', 'whiten-rewards', 'ema',
      'save-rollouts',
    ),
    ...training,
    'batch-size': { ...training['batch-size'], text: 'Episodes an iteration.', group: 'PPO' } as Option<number>,
    epochs: { ...training.epochs, text: 'Passes over the episodes of an iteration.', type: 'integer', min: 1, group: 'PPO' } as Option<number>,
    warmup: { ...training.warmup, text: 'Iterations over which the rate rises from a tenth to its peak.' },
  },
  {
    lr: 3e-6, 'value-lr': 9e-6, epochs: 1, 'batch-size': 64, 'minibatch-size': 32, schedule: 'constant', warmup: 10, 'adam-eps': 1e-5,
    beta: 0.05, horizon: 10000, 'pretrain-batch': 4, clip: 0.2, 'value-clip': 0.2, 'gae-lambda': 0.95, discount: 1, temperature: 1,
    'max-new-tokens': 128, 'missing-eos-penalty': 1, ema: 0,
  },
);

export const sampleOptions = withDefaults(
  {
    ...requiring(pick('model', 'data'), 'model', 'data'), ...decoding, ...pick('k', 'batch-size', 'shard', 'dry-run'),
    ...rowRules, ...run, ...device,
    k: { ...all.k, group: 'Sampling' } as Option<number | undefined>,
    'batch-size': { ...all['batch-size'], text: 'Responses decoded side by side; it changes no result.', group: 'Device' } as typeof all.lr,
  },
  { 'batch-size': 32 },
);

const readingBatch = { ...all['batch-size'], text: 'Rows read side by side; it changes no result.', group: 'Device' } as typeof all.lr;

export const scoreOptions = withDefaults(
  { ...requiring(pick('model', 'data'), 'model', 'data'), ...pick('dry-run'), ...rowRules, ...run, ...device, 'batch-size': readingBatch },
  { 'batch-size': 32 },
);

export const logprobsOptions = scoreOptions;

export const evalOptions = withDefaults(
  {
    ...requiring(pick('model', 'data'), 'model', 'data'), ...pick('baseline', 'reward', 'bootstrap', 'dry-run'), ...decoding,
    ...rowRules, ...run, ...device, 'batch-size': readingBatch,
  },
  { bootstrap: 1000, 'batch-size': 32 },
);

export const chatOptions = withDefaults(
  { ...requiring(pick('model'), 'model'), ...pick('system', 'chat-template'), ...decoding, ...run, ...device },
  { temperature: 0.7, 'top-p': 0.95, 'max-new-tokens': 512 },
);

export const reportOptions = withDefaults(
  { out: { ...all.out, text: 'Page to write.', value: 'FILE' }, ...pick('samples', 'table'), ...run },
  { out: 'report.html', samples: [] },
);

export const labelOptions = withDefaults(
  {
    ...requiring(pick('data'), 'data'), ...pick('labeler', 'port', 'terminal', 'agreement', 'seed'), ...run,
    out: { ...all.out, text: 'Rankings file to append to.', value: 'FILE', defaultText: undefined },
  },
  { seed: 0, port: 8787, labeler: 'anonymous' },
);

export const doctorOptions = { ...pick('self-test', 'device'), ...run };

export const benchOptions = withDefaults(
  { ...pick('model', 'batch', 'length', 'steps', 'against'), ...run, ...device },
  { batch: 32, length: 64, steps: 10 },
);

export const importOptions = withDefaults(
  { ...requiring(pick('out'), 'out'), ...pick('overwrite', 'dtype'), ...run },
  { dtype: 'f32' },
);

export const exportOptions = withDefaults(
  {
    ...requiring(pick('model', 'out'), 'model', 'out'), ...pick('gguf', 'merge', 'overwrite', 'dtype'), ...run,
    out: { ...requiring(pick('out'), 'out').out, text: 'Folder, or GGUF file, to write.', value: 'PATH' },
  },
  { dtype: 'f32' },
);

// What the stages receive: every option of the command under its camelCase name, resolved and checked. `undefined` only where absence
// has a meaning of its own. Numbers are in the options' units; `data`-like lists hold at least one file, '-' for standard input.

/** What all training commands share. */
export interface TrainSettings extends SettingsOf<typeof training> {}
export interface PretrainSettings extends SettingsOf<typeof pretrainOptions> {
  kvHeads: number;
  hidden: number;
  tokenizerData: string[];
}
export interface SftSettings extends SettingsOf<typeof sftOptions> {}
export interface RmSettings extends SettingsOf<typeof rmOptions> {}
/** `value` is absent with a `cmd:` reward: the value model then starts from the policy with a head of zeros. */
export interface PpoSettings extends SettingsOf<typeof ppoOptions> {
  reference: string;
  gamma: number;
}
/** Without `k` each row gets one `completion`; with it, even 1, a list of `completions`. */
export interface SampleSettings extends SettingsOf<typeof sampleOptions> {}
export interface ScoreSettings extends SettingsOf<typeof scoreOptions> {}
export interface LogprobsSettings extends SettingsOf<typeof logprobsOptions> {}
export interface EvalSettings extends SettingsOf<typeof evalOptions> {
  kind: 'rm' | 'policy' | 'perplexity' | 'multiple-choice';
}
export interface ChatSettings extends SettingsOf<typeof chatOptions> {}
export interface ReportSettings extends SettingsOf<typeof reportOptions> {
  runs: string[];
}
/** `out` is given unless `agreement` is. */
export interface LabelSettings extends SettingsOf<typeof labelOptions> {}
export interface DoctorSettings extends SettingsOf<typeof doctorOptions> {}
export interface BenchSettings extends SettingsOf<typeof benchOptions> {
  names: string[];
}
export interface ImportSettings extends SettingsOf<typeof importOptions> {
  source: string;
}
export interface ExportSettings extends SettingsOf<typeof exportOptions> {}
