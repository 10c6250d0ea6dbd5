// ranking_loss: for each prompt of K responses, loss = −1/n Σ log σ(r_w − r_l − margin) over its n pairs with w ranked
// strictly above l (a lower rank is better; ties are dropped), and the gradient of Σ weights[p]·loss[p] by each reward.
// Responses R: rewards, ranks, gradient [R]; prompts [P] = (first response, K); margins, weights [P];
// stats [P,4] = (loss, n, correctly ordered pairs, Σ r_w − r_l). A prompt without a strict pair gives zeros.
// Dispatch grid(⌈P / (WG/LANES)⌉): a subgroup (else a workgroup) a prompt, a lane a response, looping over the others.
struct P { prompts: u32 }
@group(0) @binding(0) var<storage, read> rewards: array<f32>;
@group(0) @binding(1) var<storage, read> ranks: array<f32>;
@group(0) @binding(2) var<storage, read> prompts: array<vec2u>;
@group(0) @binding(3) var<storage, read> margins: array<f32>;
@group(0) @binding(4) var<storage, read> weights: array<f32>;
@group(0) @binding(5) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(6) var<storage, read_write> stats: array<vec4f>;
@group(0) @binding(7) var<uniform> p: P;

// −log σ(z) = max(−z, 0) + log(1 + e), e = exp(−|z|): the series keeps the digits that 1 + e would lose.
fn minus_log_sigmoid(z: f32) -> f32 {
  let e = exp(-min(abs(z), 88.0));
  return max(-z, 0.0) + select(log(1 + e), e * (1 - e * (0.5 - e * (1.0 / 3 - e * 0.25))), e < 0.02);
}
fn sigmoid(z: f32) -> f32 { return 1 / (1 + exp(clamp(-z, -88.0, 88.0))); }

@compute @workgroup_size(${WG})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) t: u32) {
  let lane = t % ${LANES};
  let prompt = (w.y * groups.x + w.x) * ${WG / LANES} + t / ${LANES};
  let known = prompt < p.prompts;
  let at = min(prompt, p.prompts - 1);
  let first = prompts[at].x;
  let K = select(0, prompts[at].y, known);
  var strict = 0.0;
  for (var i = lane; i < K; i += ${LANES}) {
    for (var j = 0u; j < K; j++) { strict += select(0.0, 1.0, ranks[first + i] < ranks[first + j]); }
  }
  let n = sum(strict, t);
  var total = vec4f(); // loss, correct, margins
  for (var i = lane; i < K; i += ${LANES}) {
    let r = rewards[first + i];
    let rank = ranks[first + i];
    var g = 0.0;
    for (var j = 0u; j < K; j++) {
      let other = ranks[first + j];
      let d = r - rewards[first + j];
      if (rank < other) {
        g -= sigmoid(margins[at] - d);
        total += vec4f(minus_log_sigmoid(d - margins[at]), select(0.0, 1.0, d > 0), d, 0);
      } else if (rank > other) {
        g += sigmoid(margins[at] + d);
      }
    }
    gradient[first + i] = select(0.0, g * weights[at] / n, n > 0 && weights[at] != 0);
  }
  let all = sum4(total, t);
  if (known && lane == 0) { stats[prompt] = vec4f(all.x / max(n, 1), n, all.y, all.z); }
}
