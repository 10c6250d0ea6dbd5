/** What a row of logits [V] says about a target, logits divided by the temperature, in float64. */
export function logprobOf(logits: ArrayLike<number>, target: number, temperature = 1) {
  const z = Array.from(logits, (x) => x / temperature);
  const top = z.reduce((a, b) => Math.max(a, b));
  const lse = top + Math.log(z.reduce((sum, x) => sum + Math.exp(x - top), 0));
  const p = z.map((x) => Math.exp(x - lse));
  const entropy = p.reduce((sum, x) => sum - (x > 0 ? x * Math.log(x) : 0), 0);
  /** d log p(target) / d logits. */
  const gradient = p.map((x, v) => ((v === target ? 1 : 0) - x) / temperature);
  return { logp: z[target] - lse, entropy, correct: z[target] === top ? 1 : 0, lse, gradient };
}
