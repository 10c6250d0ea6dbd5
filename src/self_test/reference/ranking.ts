/** Float64 K-wise ranking loss of one prompt: loss, gradient by each reward, strict pairs, correct ones, Σ margins. */
export function rankingLossOf(rewards: ArrayLike<number>, ranks: ArrayLike<number>, margin = 0) {
  const K = rewards.length;
  const gradient = new Array<number>(K).fill(0);
  let loss = 0;
  let pairs = 0;
  let correct = 0;
  let margins = 0;
  for (let w = 0; w < K; w++) {
    for (let l = 0; l < K; l++) {
      if (ranks[w] >= ranks[l]) continue;
      const z = rewards[w] - rewards[l] - margin;
      loss += Math.max(-z, 0) + Math.log1p(Math.exp(-Math.abs(z)));
      const slope = z > 0 ? Math.exp(-z) / (1 + Math.exp(-z)) : 1 / (1 + Math.exp(z));
      gradient[w] -= slope;
      gradient[l] += slope;
      pairs++;
      if (rewards[w] > rewards[l]) correct++;
      margins += rewards[w] - rewards[l];
    }
  }
  const n = Math.max(pairs, 1);
  return { loss: loss / n, gradient: gradient.map((g) => g / n), pairs, correct, margins };
}
