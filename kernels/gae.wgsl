// gae: generalised advantage estimation (Schulman et al. 2015, equation 16) along each response, V = 0 after its last
// token: δ_t = R_t + discount · V_{t+1} − V_t, A_t = δ_t + discount · λ · A_{t+1}, returns = A + V.
// rewards, values, advantages, returns [M]; episodes [E] = (first token, length); settings = (β, discount, λ, …).
// A lane an episode, from its end; dispatch ⌈E/64⌉.
struct P { episodes: u32 }
@group(0) @binding(0) var<storage, read> rewards: array<f32>;
@group(0) @binding(1) var<storage, read> values: array<f32>;
@group(0) @binding(2) var<storage, read> episodes: array<vec2u>;
@group(0) @binding(3) var<storage, read> settings: array<f32>;
@group(0) @binding(4) var<storage, read_write> advantages: array<f32>;
@group(0) @binding(5) var<storage, read_write> returns: array<f32>;
@group(0) @binding(6) var<uniform> p: P;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.episodes) { return; }
  let episode = episodes[id.x];
  var next = 0.0;
  var advantage = 0.0;
  for (var t = 0u; t < episode.y; t++) {
    let at = episode.x + episode.y - 1 - t;
    let value = values[at];
    let delta = rewards[at] + settings[1] * next - value;
    advantage = delta + settings[1] * settings[2] * advantage;
    advantages[at] = advantage;
    returns[at] = advantage + value;
    next = value;
  }
}
