import { all } from './option_catalog.ts';
import { camelCase, requiring, withDefaults, type Option, type SettingsOf } from './option_types.ts';

function pick<K extends keyof typeof all>(...names: K[]): Pick<typeof all, K> {
  return Object.fromEntries(names.map((name) => [name, all[name]])) as Pick<typeof all, K>;
}

const run = pick('config', 'quiet');
const deviceOnly = withDefaults(pick('device', 'dtype', 'seed'), { dtype: 'f32', seed: 0 });
const device = { ...deviceOnly, ...pick('memory') };
const ofLongRows = pick('truncate', 'skip-long');
const rowRules = { ...pick('skip-bad-rows', 'chat-template'), ...ofLongRows };
const decoding = withDefaults(pick('temperature', 'top-k', 'top-p', 'max-new-tokens', 'stop', 'greedy'), {
  temperature: 1,
  'top-k': 0,
  'top-p': 1,
  'max-new-tokens': 128,
});

/** Options of all training commands; the defaults are train-sft's. Documents are packed, so that pretraining has no rows that are too long. */
const training = {
  ...requiring(pick('out'), 'out'),
  ...withDefaults(
    pick(
      'lr',
      'schedule',
      'warmup',
      'min-lr-ratio',
      'epochs',
      'batch-size',
      'micro-batch-tokens',
      'max-steps',
      'weight-decay',
      'adam-beta1',
      'adam-beta2',
      'adam-eps',
      'max-grad-norm',
      'shuffle',
      'save-every',
      'eval-every',
      'resume',
      'overwrite',
      'lora-rank',
      'lora-alpha',
      'lora-targets',
      'preset',
      'dry-run',
    ),
    {
      lr: 2e-5,
      schedule: 'cosine',
      warmup: 0,
      'min-lr-ratio': 0.1,
      epochs: 3,
      'batch-size': 32,
      'weight-decay': 0,
      'adam-beta1': 0.9,
      'adam-beta2': 0.95,
      'adam-eps': 1e-8,
      'max-grad-norm': 1,
      'save-every': 0,
      'eval-every': 0,
      'lora-rank': 0,
      'lora-alpha': 16,
    },
  ),
  ...pick('skip-bad-rows', 'chat-template'),
  ...run,
  ...device,
};

/** What a new model is where nothing is said: no defaults of the options, since with --model none of them may be given. */
export const newModelDefaults = { arch: 'llama', layers: 4, width: 128, heads: 4, context: 256, vocabSize: 1024 } as const;
const newModel = pick('arch', 'layers', 'width', 'heads', 'context', 'vocab-size');
for (const [name, option] of Object.entries(newModel))
  newModel[name as 'layers'] = { ...option, defaultText: String(newModelDefaults[camelCase(name) as 'layers']) } as typeof all.layers;

export const pretrainOptions = withDefaults(
  {
    ...requiring(pick('data'), 'data'),
    ...pick('model', 'tokenizer', 'eval-data', 'tokenizer-data', 'dropout'),
    ...newModel,
    ...pick('kv-heads', 'hidden'),
    ...training,
  },
  { lr: 1e-3, epochs: 1, 'weight-decay': 0.1, dropout: 0 },
);

export const sftOptions = withDefaults(
  {
    ...requiring(pick('model', 'data'), 'model', 'data'),
    ...pick('eval-data', 'dropout', 'packing', 'pretrain', 'pretrain-fraction', 'pretrain-weight', 'select-by-reward'),
    ...pick('max-new-tokens'),
    ...training,
    ...ofLongRows,
  },
  { dropout: 0, 'pretrain-fraction': 0.1, 'pretrain-weight': 1, 'max-new-tokens': 128 },
);

export const rmOptions = withDefaults(
  {
    ...requiring(pick('model', 'data'), 'model', 'data'),
    ...pick('k', 'eval-data', 'demonstrations', 'dropout'),
    ...training,
    ...ofLongRows,
    k: {
      ...all.k,
      text: 'At most this many responses of each prompt, drawn anew each epoch.',
      min: 2,
      defaultText: 'all',
    },
    'batch-size': { ...training['batch-size'], text: 'Prompts a step.' },
  },
  { lr: 9e-6, epochs: 1, 'batch-size': 64, dropout: 0 },
);

export const ppoOptions = withDefaults(
  {
    ...requiring(pick('policy', 'reward', 'prompts'), 'policy', 'reward', 'prompts'),
    ...pick(
      'reference',
      'value',
      'pretrain',
      'pretrain-batch',
      'gamma',
      'beta',
      'target-kl',
      'horizon',
      'episodes',
      'minibatch-size',
      'value-lr',
      'clip',
      'value-clip',
      'gae-lambda',
      'discount',
      'temperature',
      'max-new-tokens',
      'missing-eos-penalty',
      'whiten-rewards',
      'ema',
      'save-rollouts',
    ),
    ...training,
    ...ofLongRows,
    'batch-size': { ...training['batch-size'], text: 'Episodes an iteration.', group: 'PPO' } as Option<number>,
    epochs: {
      ...training.epochs,
      text: 'Passes over the episodes of an iteration.',
      type: 'integer',
      value: 'N',
      min: 1,
      group: 'PPO',
    } as Option<number>,
    warmup: { ...training.warmup, text: 'Iterations over which the rate rises from a tenth to its peak.' },
  },
  {
    lr: 3e-6,
    'value-lr': 9e-6,
    epochs: 1,
    'batch-size': 64,
    'minibatch-size': 32,
    schedule: 'constant',
    warmup: 10,
    'adam-eps': 1e-5,
    beta: 0.05,
    horizon: 10000,
    'pretrain-batch': 4,
    clip: 0.2,
    'value-clip': 0.2,
    'gae-lambda': 0.95,
    discount: 1,
    temperature: 1,
    'max-new-tokens': 128,
    'missing-eos-penalty': 1,
    ema: 0,
  },
);

export const sampleOptions = withDefaults(
  {
    ...requiring(pick('model', 'data'), 'model', 'data'),
    ...decoding,
    ...pick('k', 'batch-size', 'shard', 'dry-run'),
    ...rowRules,
    ...run,
    ...device,
    k: { ...all.k, group: 'Sampling' } as Option<number | undefined>,
    'batch-size': {
      ...all['batch-size'],
      text: 'Responses decoded side by side; it changes no result.',
      group: 'Device',
    } as typeof all.lr,
  },
  { 'batch-size': 32 },
);

const readingBatch = {
  ...all['batch-size'],
  text: 'Rows read side by side; it changes no result.',
  group: 'Device',
} as typeof all.lr;

export const scoreOptions = withDefaults(
  {
    ...requiring(pick('model', 'data'), 'model', 'data'),
    ...pick('dry-run'),
    ...rowRules,
    ...run,
    ...device,
    'batch-size': readingBatch,
  },
  { 'batch-size': 32 },
);

export const logprobsOptions = scoreOptions;

export const evalOptions = withDefaults(
  {
    ...requiring(pick('model', 'data'), 'model', 'data'),
    ...pick('baseline', 'reward', 'bootstrap', 'dry-run'),
    ...decoding,
    ...rowRules,
    ...run,
    ...device,
    'batch-size': readingBatch,
  },
  { bootstrap: 1000, 'batch-size': 32 },
);

export const chatOptions = withDefaults(
  { ...requiring(pick('model'), 'model'), ...pick('system', 'chat-template'), ...decoding, ...run, ...deviceOnly },
  { temperature: 0.7, 'top-p': 0.95, 'max-new-tokens': 512 },
);

export const reportOptions = withDefaults(
  { out: { ...all.out, text: 'Page to write.', value: 'FILE' }, ...pick('samples', 'table'), ...run },
  { out: 'report.html', samples: [] },
);

export const labelOptions = withDefaults(
  {
    ...requiring(pick('data'), 'data'),
    ...pick('labeler', 'port', 'terminal', 'agreement', 'seed'),
    ...run,
    out: { ...all.out, text: 'Rankings file to append to.', value: 'FILE', defaultText: undefined },
  },
  { seed: 0, port: 8787, labeler: 'anonymous' },
);

export const doctorOptions = { ...pick('self-test', 'device'), ...run };

export const benchOptions = withDefaults(
  { ...pick('model', 'batch', 'length', 'steps', 'against'), ...run, ...deviceOnly },
  { batch: 32, length: 64, steps: 10 },
);

export const importOptions = withDefaults(
  { ...requiring(pick('out'), 'out'), ...pick('overwrite', 'dtype'), ...run },
  { dtype: 'f32' },
);

export const exportOptions = withDefaults(
  {
    ...requiring(pick('model', 'out'), 'model', 'out'),
    ...pick('gguf', 'merge', 'overwrite', 'dtype'),
    ...run,
    out: { ...requiring(pick('out'), 'out').out, text: 'Folder, or GGUF file, to write.', value: 'PATH' },
  },
  { dtype: 'f32' },
);

// What the stages receive: every option of the command under its camelCase name, resolved and checked. `undefined`
// only where absence has a meaning of its own. Numbers are in the options' units; `data`-like lists hold at least one
// file, '-' for standard input.

/** What all training commands share. */
export interface TrainSettings extends SettingsOf<typeof training> {}
/** What a new model is to be, and what its tokenizer is trained on, are absent where there is one already. */
export interface PretrainSettings extends SettingsOf<typeof pretrainOptions> {}
/** What a new model is to be. */
export type NewModelSettings = { [K in 'arch' | 'layers' | 'width' | 'heads' | 'kvHeads' | 'hidden' | 'context']: NonNullable<PretrainSettings[K]> };
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
