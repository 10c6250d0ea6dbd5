// Seeded random numbers and 95 % percentile bootstrap intervals over prompts (Efron and Tibshirani 1993, chapter 13),
// for the scripts that compare models. Every interval resamples whole prompts, since texts of one prompt are not
// independent of each other.

/** Uniform numbers in [0, 1) from a 32-bit state (splitmix32): the same for a seed on every machine. */
export function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let word = state;
    word = Math.imul(word ^ (word >>> 16), 0x21f0aaad);
    word = Math.imul(word ^ (word >>> 15), 0x735a2d97);
    return ((word ^ (word >>> 15)) >>> 0) / 2 ** 32;
  };
}

/** A Fisher–Yates shuffle into a new array. */
export function shuffled(items, random) {
  const result = [...items];
  for (let i = result.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [result[i], result[j]] = [result[j], result[i]];
  }
  return result;
}

/**
 * The ratio Σ numerator / Σ denominator and its interval. `units` are one a prompt, {numerator, denominator}; a plain
 * mean has denominator 1. Returns {mean, low, high}.
 */
export function interval(units, { resamples = 2000, seed = 0 } = {}) {
  const statistic = (draw) => {
    let numerator = 0;
    let denominator = 0;
    for (let i = 0; i < units.length; i++) {
      const unit = units[draw(i)];
      numerator += unit.numerator;
      denominator += unit.denominator;
    }
    return numerator / denominator;
  };
  return percentiles(statistic, units.length, resamples, seed);
}

/**
 * The difference of two ratios, `after` minus `before`, where index i is the same prompt in both; the same draw of
 * prompts is used on both sides, so what the prompts have in common cancels. Returns {mean, low, high}.
 */
export function pairedInterval(before, after, { resamples = 2000, seed = 0 } = {}) {
  if (before.length !== after.length) {
    throw new Error(`cannot pair ${before.length} prompts with ${after.length}`);
  }
  const statistic = (draw) => {
    const sums = [0, 0, 0, 0];
    for (let i = 0; i < before.length; i++) {
      const k = draw(i);
      sums[0] += before[k].numerator;
      sums[1] += before[k].denominator;
      sums[2] += after[k].numerator;
      sums[3] += after[k].denominator;
    }
    return sums[2] / sums[3] - sums[0] / sums[1];
  };
  return percentiles(statistic, before.length, resamples, seed);
}

function percentiles(statistic, count, resamples, seed) {
  const random = generator(seed);
  const values = Array.from({ length: resamples }, () => statistic(() => Math.floor(random() * count)))
    .sort((a, b) => a - b);
  const at = (share) => values[Math.min(resamples - 1, Math.max(0, Math.round(share * (resamples - 1))))];
  return { mean: statistic((i) => i), low: at(0.025), high: at(0.975) };
}

/** Plain numbers as units of equal weight. */
export const asUnits = (values) => values.map((numerator) => ({ numerator, denominator: 1 }));
