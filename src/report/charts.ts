import type { RunLog, Series } from './run_log.ts';

/** One chart as the page's script draws it: lines over a common list of steps, null where a line has no point. */
export interface Chart {
  title: string;
  /** What it shows, for people new to the method. */
  text: string;
  lines: { label: string; run: number; metric: number; values: (number | null)[] }[];
  steps: number[];
}

interface ChartPlan {
  title: string;
  text: string;
  metrics: [name: string, label: string][];
}

const optimisation: ChartPlan[] = [
  { title: 'Gradient norm', text: 'Before clipping.', metrics: [['grad_norm', 'gradient norm']] },
  { title: 'Learning rate', text: 'The schedule as it ran.', metrics: [['lr', 'learning rate']] },
];

const languageModel: ChartPlan[] = [
  {
    title: 'Loss',
    text: 'Mean negative log-likelihood of a token, in nats.',
    metrics: [['loss', 'training'], ['eval_loss', 'held out']],
  },
  {
    title: 'Token accuracy',
    text: 'Share of tokens that the model thought most likely.',
    metrics: [['mean_token_accuracy', 'training'], ['eval_mean_token_accuracy', 'held out']],
  },
  {
    title: 'Pretraining loss',
    text: 'Nats a token on the pretraining rows mixed in.',
    metrics: [['loss/ptx', 'pretraining']],
  },
  { title: 'Perplexity', text: 'exp(loss) on held-out rows.', metrics: [['eval_perplexity', 'held out']] },
  ...optimisation,
];

const rewardModel: ChartPlan[] = [
  {
    title: 'Ranking loss',
    text: 'Mean over prompts of −log σ(better − worse) over all strict pairs; ln 2 = 0.693 is chance.',
    metrics: [['loss', 'training'], ['eval_loss', 'held out']],
  },
  {
    title: 'Pair accuracy',
    text: 'Share of strict pairs in the order that people gave.',
    metrics: [['accuracy', 'training'], ['eval_accuracy', 'held out']],
  },
  {
    title: 'Margin',
    text: 'Mean difference of reward between the better and the worse answer.',
    metrics: [['margin', 'training'], ['eval_margin', 'held out']],
  },
  {
    title: 'Mean reward',
    text: 'Only differences of reward mean anything while training goes on.',
    metrics: [['mean_reward', 'training'], ['eval_mean_reward', 'held out']],
  },
  ...optimisation,
];

const reinforcement: ChartPlan[] = [
  {
    title: 'Reward',
    text: 'Reward model’s score, the KL penalty, and their sum, which PPO raises.',
    metrics: [['objective/scores', 'score'], ['objective/non_score_reward', '−β KL'], ['objective/rlhf_reward', 'sum']],
  },
  {
    title: 'KL to the reference',
    text: 'Nats a response, mean over responses: how far the policy has moved from the SFT model.',
    metrics: [['objective/kl', 'KL'], ['objective/kl_k3', 'k3 estimate']],
  },
  { title: 'β', text: 'Weight of the KL penalty.', metrics: [['objective/kl_coef', 'β']] },
  { title: 'Entropy', text: 'Of the policy, in nats a token.', metrics: [['policy/entropy_avg', 'entropy']] },
  { title: 'Entropy of a response', text: 'In nats.', metrics: [['objective/entropy', 'entropy']] },
  {
    title: 'Pretraining loss',
    text: 'Nats a token on the pretraining mix (γ > 0).',
    metrics: [['loss/ptx', 'pretraining']],
  },
  {
    title: 'Response length',
    text: 'Tokens a response.',
    metrics: [['response_length/mean', 'mean'], ['response_length/max', 'longest']],
  },
  { title: 'Finished responses', text: 'Share that ended with EOS.', metrics: [['frac_eos', 'with EOS']] },
  {
    title: 'Clipped share',
    text: 'Share of tokens where the clipped term of the objective was the larger one.',
    metrics: [['policy/clipfrac_avg', 'policy'], ['val/clipfrac_avg', 'value']],
  },
  {
    title: 'Probability ratio',
    text: 'New over old probability of the sampled tokens.',
    metrics: [['val/ratio', 'mean'], ['val/ratio_min', 'least'], ['val/ratio_max', 'greatest']],
  },
  {
    title: 'KL of the update',
    text: 'Between the policy before and after an update, nats a token.',
    metrics: [['policy/approxkl_avg', 'KL']],
  },
  { title: 'Policy loss', text: 'Clipped surrogate.', metrics: [['loss/policy_avg', 'policy']] },
  { title: 'Value loss', text: 'Half the clipped squared error.', metrics: [['loss/value_avg', 'value']] },
  {
    title: 'Returns',
    text: 'What the value model learns to foretell, over all response tokens.',
    metrics: [['returns/mean', 'mean'], ['returns/var', 'variance']],
  },
  {
    title: 'Explained variance',
    text: 'Share of the returns’ variance that the value model foretells.',
    metrics: [['val/explained_var', 'explained']],
  },
  {
    title: 'Gradient norms',
    text: 'Before clipping; the ratio of policy to pretraining gives γ its meaning.',
    metrics: [['grad_norm/policy', 'policy'], ['grad_norm/ptx', 'pretraining'], ['grad_norm/value', 'value']],
  },
  {
    title: 'Time',
    text: 'Seconds an iteration.',
    metrics: [['time/rollout', 'rollout'], ['time/score', 'score'], ['time/update', 'update']],
  },
  {
    title: 'Learning rate',
    text: 'The schedule as it ran.',
    metrics: [['lr', 'policy'], ['lr/value', 'value']],
  },
];

const plans: Record<string, ChartPlan[]> = {
  pretrain: languageModel,
  'train-sft': languageModel,
  'train-rm': rewardModel,
  ppo: reinforcement,
};

/** Counters, of no interest as a curve. */
const uncharted = new Set(['episode', 'epoch', 'tokens', 'seconds', 'step']);

/**
 * The charts of several runs of one command: known metrics together where they belong together, any other metric on a
 * chart of its own. A metric that no run has makes no line, a chart without lines is left out.
 */
export function chartsOf(runs: RunLog[]): Chart[] {
  const known = plans[runs[0]?.command ?? ''] ?? [];
  const covered = new Set(known.flatMap(({ metrics }) => metrics.map(([name]) => name)));
  const others = [...new Set(runs.flatMap(({ series }) => [...series.keys()]))]
    .filter((name) => !covered.has(name) && !uncharted.has(name))
    .sort()
    .map((name): ChartPlan => ({ title: name, text: '', metrics: [[name, name]] }));
  return [...known, ...others].map((plan) => chart(plan, runs)).filter(({ lines }) => lines.length > 0);
}

function chart({ title, text, metrics }: ChartPlan, runs: RunLog[]): Chart {
  const found = runs.flatMap(({ name, series }, run) =>
    metrics.flatMap(([metricName, metricLabel], metric) => {
      const points = series.get(metricName);
      if (!points) return [];
      const label = runs.length === 1 ? metricLabel : metrics.length === 1 ? name : `${name}: ${metricLabel}`;
      return [{ label, run, metric, points }];
    }),
  );
  const steps = [...new Set(found.flatMap(({ points }) => points.steps))].sort((a, b) => a - b);
  const lines = found.map(({ points, ...line }) => ({ ...line, values: aligned(points, steps) }));
  return { title, text, lines, steps };
}

function aligned(points: Series, steps: number[]): (number | null)[] {
  const at = new Map(points.steps.map((step, i) => [step, points.values[i]!]));
  return steps.map((step) => {
    const value = at.get(step);
    return value === undefined ? null : Number(value.toPrecision(6));
  });
}

/** A line in words, for readers who see no curve: first, last, lowest and highest value. */
export function inWords({ label, values }: Chart['lines'][number], steps: number[]): string {
  const points = values.flatMap((value, i) => (value === null ? [] : [{ value, step: steps[i]! }]));
  const [first, last] = [points[0]!, points.at(-1)!];
  if (points.length === 1) return `${label}: ${short(first.value)} at step ${first.step}`;
  const extreme = (sign: number) =>
    points.reduce((best, point) => (sign * point.value > sign * best.value ? point : best));
  return `${label}: ${short(first.value)} at step ${first.step}, ${short(last.value)} at step ${last.step}, ` +
    `between ${short(extreme(-1).value)} and ${short(extreme(1).value)}`;
}

/** Four significant digits. */
export function short(value: number): string {
  if (value === 0) return '0';
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}
