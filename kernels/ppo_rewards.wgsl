// ppo_rewards: the KL-penalised reward of each response token, R_t = −β (log π_old − log π_ref) + [t = last] · score.
// logp, refLogp, rewards [M] tokens; scores [E]; episodes [E] = (first token, length), length 0 is padding.
// settings = (β, discount, λ, clip, value clip). stats [E,4] = (Σ k1, Σ k3, Σ −β k1, 1 if real),
// k1 = log π_old − log π_ref.
// A lane an episode; dispatch ⌈E/64⌉.
struct P { episodes: u32 }
@group(0) @binding(0) var<storage, read> logp: array<f32>;
@group(0) @binding(1) var<storage, read> refLogp: array<f32>;
@group(0) @binding(2) var<storage, read> scores: array<f32>;
@group(0) @binding(3) var<storage, read> episodes: array<vec2u>;
@group(0) @binding(4) var<storage, read> settings: array<f32>;
@group(0) @binding(5) var<storage, read_write> rewards: array<f32>;
@group(0) @binding(6) var<storage, read_write> stats: array<vec4f>;
@group(0) @binding(7) var<uniform> p: P;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.episodes) { return; }
  let episode = episodes[id.x];
  var s = vec4f();
  for (var t = 0u; t < episode.y; t++) {
    let at = episode.x + t;
    let d = logp[at] - refLogp[at];
    let penalty = -settings[0] * d;
    s += vec4f(d, k3(-d), penalty, 0);
    rewards[at] = select(penalty, penalty + scores[id.x], t == episode.y - 1);
  }
  s.w = select(0.0, 1.0, episode.y > 0);
  stats[id.x] = s;
}
