/**
 * Float64 distribution over the vocabulary after temperature, top-k (ties of the k-th kept) and top-p (the ascending
 * cumulative mass ≤ 1 − p is dropped; equal logits are kept or dropped together). Dropped ids have probability 0.
 */
export function filtered(logits: ArrayLike<number>, temperature: number, topK: number, topP: number): number[] {
  const x = Array.from(logits, (l) => l / temperature);
  const sorted = [...x].sort((a, b) => a - b);
  const top = sorted[sorted.length - 1];
  let least = topK > 0 && topK < x.length ? sorted[x.length - topK] : -Infinity;
  const mass = (from: number): number => x.reduce((sum, l) => sum + (l >= from ? Math.exp(l - top) : 0), 0);
  if (topP < 1) {
    const limit = (1 - topP) * mass(least);
    let below = 0;
    for (let i = sorted.findIndex((l) => l >= least); i < sorted.length;) {
      const group = sorted[i];
      if (below > limit) break;
      least = group;
      for (; i < sorted.length && sorted[i] === group; i++) below += Math.exp(group - top);
    }
  }
  const whole = mass(least);
  return x.map((l) => (l >= least ? Math.exp(l - top) / whole : 0));
}

/** log softmax(logits / temperature). */
export function logSoftmax(logits: ArrayLike<number>, temperature: number): number[] {
  const x = Array.from(logits, (l) => l / temperature);
  const top = x.reduce((a, b) => Math.max(a, b), -Infinity);
  const whole = Math.log(x.reduce((sum, l) => sum + Math.exp(l - top), 0));
  return x.map((l) => l - top - whole);
}

/** The id at which the cumulative sum of the probabilities passes u, the last one with mass if it never does. */
export function inverseCdf(probabilities: ArrayLike<number>, u: number): number {
  let sum = 0;
  let id = 0;
  for (let i = 0; i < probabilities.length; i++) {
    if (probabilities[i] <= 0) continue;
    id = i;
    sum += probabilities[i];
    if (u < sum) break;
  }
  return id;
}
