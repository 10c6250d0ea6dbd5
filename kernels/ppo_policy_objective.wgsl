// ppo_policy_objective: Σ w · max(−A ρ, −A clip(ρ, 1 − ε, 1 + ε)), ρ = exp(log π − log π_old), its gradient by log π:
// −w A ρ where the unclipped term is the larger or both are equal, else 0 (Schulman et al. 2017, equation 7).
// logp, oldLogp, advantages, weights, gradient [M]; weights are 1/(tokens of the minibatch), 0 at padding, where
// nothing is read that could matter. settings = (β, discount, λ, ε, …). stats [12] are added to: tokens, loss,
// k1, k2, k3, clipped share, mean ρ, largest ρ, smallest ρ. log ρ is held within ±80, so that nothing overflows. One workgroup.
struct P { M: u32 }
@group(0) @binding(0) var<storage, read> logp: array<f32>;
@group(0) @binding(1) var<storage, read> oldLogp: array<f32>;
@group(0) @binding(2) var<storage, read> advantages: array<f32>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
@group(0) @binding(4) var<storage, read> settings: array<f32>;
@group(0) @binding(5) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(6) var<storage, read_write> stats: array<f32>;
@group(0) @binding(7) var<uniform> p: P;

@compute @workgroup_size(${WG})
fn main(@builtin(local_invocation_index) t: u32) {
  let clip = settings[3];
  var a = vec4f(); // tokens, loss, k1, k2
  var b = vec4f(); // k3, clipped, ρ
  var extremes = vec4f(0, -3e38, 0, 0); // largest ρ, −smallest ρ
  for (var i = t; i < p.M; i += ${WG}) {
    let w = weights[i];
    var g = 0.0;
    if (w != 0) {
      let d = clamp(logp[i] - oldLogp[i], -80.0, 80.0);
      let ratio = select(exp(d), 1.0, d == 0); // exactly 1 for equal policies, whatever the device's exp
      let plain = -advantages[i] * ratio;
      let clipped = -advantages[i] * clamp(ratio, 1 - clip, 1 + clip);
      let worse = clipped > plain;
      g = select(w * plain, 0.0, worse);
      a += vec4f(1, w * max(plain, clipped), -w * d, 0.5 * w * d * d);
      b += vec4f(w * k3(d), select(0.0, w, worse), w * ratio, 0);
      extremes = max(extremes, vec4f(ratio, -ratio, 0, 0));
    }
    gradient[i] = g;
  }
  a = sum4(a, t);
  b = sum4(b, t);
  extremes = max4(extremes, t);
  if (t == 0 && a.x > 0) {
    let fresh = stats[0] == 0;
    for (var i = 0u; i < 4; i++) {
      stats[i] += a[i];
      if (i < 3) { stats[4 + i] += b[i]; }
    }
    stats[7] = select(max(stats[7], extremes.x), extremes.x, fresh);
    stats[8] = select(min(stats[8], -extremes.y), -extremes.y, fresh);
  }
}
