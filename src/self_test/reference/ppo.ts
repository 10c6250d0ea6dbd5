/** Float64 references of PPO's formulas, one episode or a flat list of tokens at a time. */

export function klRewardsOf(logp: number[], refLogp: number[], score: number, beta: number): number[] {
  return logp.map((l, t) => -beta * (l - refLogp[t]) + (t === logp.length - 1 ? score : 0));
}

export function gaeOf(rewards: number[], values: number[], discount: number, lambda: number) {
  const advantages = new Array<number>(rewards.length).fill(0);
  let next = 0;
  let advantage = 0;
  for (let t = rewards.length - 1; t >= 0; t--) {
    advantage = rewards[t] + discount * next - values[t] + discount * lambda * advantage;
    advantages[t] = advantage;
    next = values[t];
  }
  return { advantages, returns: advantages.map((a, t) => a + values[t]) };
}

export function whitenOf(values: number[], keepMean: boolean) {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const variance = values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / values.length;
  return { out: values.map((x) => (x - mean) / Math.sqrt(variance + 1e-8) + (keepMean ? mean : 0)), mean, variance };
}

const mean = (xs: number[]): number => xs.reduce((a, b) => a + b, 0) / xs.length;

export function policyObjectiveOf(logp: number[], oldLogp: number[], advantages: number[], clip: number) {
  const n = logp.length;
  const d = logp.map((l, i) => l - oldLogp[i]);
  const ratio = d.map(Math.exp);
  const plain = ratio.map((r, i) => -advantages[i] * r);
  const clipped = ratio.map((r, i) => -advantages[i] * Math.min(Math.max(r, 1 - clip), 1 + clip));
  return {
    loss: mean(plain.map((l, i) => Math.max(l, clipped[i]))),
    gradient: plain.map((l, i) => (clipped[i] > l ? 0 : l / n)),
    stats: [
      n,
      mean(plain.map((l, i) => Math.max(l, clipped[i]))),
      -mean(d),
      mean(d.map((x) => (x * x) / 2)),
      mean(d.map((x) => Math.expm1(x) - x)),
      mean(plain.map((l, i) => (clipped[i] > l ? 1 : 0))),
      mean(ratio),
      Math.max(...ratio),
      Math.min(...ratio),
    ],
  };
}

export function valueLossOf(values: number[], oldValues: number[], returns: number[], clip: number) {
  const n = values.length;
  const error = values.map((v, i) => v - returns[i]);
  const held = values.map((v, i) => oldValues[i] + Math.min(Math.max(v - oldValues[i], -clip), clip) - returns[i]);
  // Inside the range both terms are the same number; what differs is rounding.
  const worse = error.map((e, i) => Math.abs(values[i] - oldValues[i]) > clip && held[i] ** 2 > e ** 2);
  const losses = error.map((e, i) => (worse[i] ? held[i] ** 2 : e ** 2) / 2);
  return {
    loss: mean(losses),
    gradient: error.map((e, i) => (worse[i] ? 0 : e / n)),
    stats: [n, mean(losses), mean(worse.map(Number))],
  };
}
