export type Schedule = 'constant' | 'linear' | 'cosine';

export interface ScheduleOptions {
  schedule: Schedule;
  /** Steps of linear warm-up from 0: the first step has rate 0, as in transformers. */
  warmup: number;
  /** Steps of the whole run, also when it stops early. */
  totalSteps: number;
  /** Where linear and cosine end, as a part of the peak rate. */
  minRatio: number;
}

/** What the peak learning rate is multiplied with at a 0-based step: transformers' get_scheduler, ending at `minRatio`. */
export function multiplier(step: number, { schedule, warmup, totalSteps, minRatio }: ScheduleOptions): number {
  if (step < warmup) return step / Math.max(1, warmup);
  if (schedule === 'constant') return 1;
  const done = Math.min(1, (step - warmup) / Math.max(1, totalSteps - warmup));
  const falling = schedule === 'linear' ? 1 - done : 0.5 * (1 + Math.cos(Math.PI * done));
  return minRatio + (1 - minRatio) * falling;
}

/**
 * PPO's multiplier at a 0-based iteration: from 1/10 to 1 in equal steps over the first `warmup` iterations (Ouyang et al.
 * 2022, appendix C.4), a factor on the schedule, which spans all iterations.
 */
export function ppoMultiplier(iteration: number, options: ScheduleOptions): number {
  const { warmup } = options;
  const rise = iteration < warmup ? 0.1 + (0.9 * iteration) / warmup : 1;
  return rise * multiplier(iteration, { ...options, warmup: 0 });
}
