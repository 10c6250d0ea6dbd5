import { RandomStream } from './random.ts';

/** A number about some units (prompts, rows), named by their places; a unit may be there several times. */
export type Statistic = (units: ArrayLike<number>) => number;

export interface Estimate {
  value: number;
  /** 95 % percentile interval. */
  interval: [number, number];
}

/** Σ sums / Σ counts over the units: a mean of what each unit has one of, or as many as `counts` says. */
export const ratio = (sums: ArrayLike<number>, counts?: ArrayLike<number>): Statistic => (units) => {
  let sum = 0;
  let count = 0;
  for (let i = 0; i < units.length; i++) {
    sum += sums[units[i]];
    count += counts ? counts[units[i]] : 1;
  }
  return sum / count;
};

/**
 * Statistics of `count` units with bootstrap intervals: units are drawn with replacement, `resamples` times, seeded. All
 * statistics see the same resamples, so that two policies on the same prompts are compared in pairs. A resample on which
 * a statistic has no value (no unit of a rare kind was drawn) is left out of its interval.
 */
export function bootstrap<K extends string>(count: number, statistics: Record<K, Statistic>,
  { resamples, seed }: { resamples: number; seed: number }): Record<K, Estimate> {
  const entries = Object.entries(statistics) as [K, Statistic][];
  const found = entries.map(() => [] as number[]);
  const units = new Uint32Array(count);
  for (let b = 0; b < resamples; b++) {
    const random = new RandomStream(seed, 'bootstrap', b);
    for (let i = 0; i < count; i++) units[i] = random.below(count);
    entries.forEach(([, statistic], s) => {
      const value = statistic(units);
      if (Number.isFinite(value)) found[s].push(value);
    });
  }
  const every = units.map((_, i) => i);
  return Object.fromEntries(entries.map(([name, statistic], s) => {
    const values = found[s].sort((x, y) => x - y);
    const at = (q: number): number => values[Math.min(values.length - 1, Math.floor(q * values.length))] ?? NaN;
    return [name, { value: statistic(every), interval: [at(0.025), at(0.975)] }];
  })) as Record<K, Estimate>;
}
