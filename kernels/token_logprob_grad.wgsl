// token_logprob_grad: turns logits into their gradient in place: dz_v = d · (1[v = target] − p_v) / τ, with
// p_v = exp(z_v/τ − lse) and d = DLOGP[m] the gradient of the target's log-probability. STATS as token_logprob left it.
// Padding columns become zero. Dispatch ⌈M·ld/64⌉, a vec4 a lane.
struct P { count: u32, V: u32, ld: u32, inverse_temperature: f32 }
@group(0) @binding(0) var<storage, read> TARGET: array<u32>;
@group(0) @binding(1) var<storage, read> STATS: array<vec4f>;
@group(0) @binding(2) var<storage, read> DLOGP: array<f32>;
@group(0) @binding(3) var<storage, read_write> Z: array<vec4f>;
@group(0) @binding(4) var<uniform> p: P;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i >= p.count) { return; }
  let m = i / p.ld;
  let column = (i % p.ld) * 4 + vec4u(0, 1, 2, 3);
  let d = DLOGP[m] * p.inverse_temperature;
  let probability = exp(Z[i] * p.inverse_temperature - STATS[m].w);
  let hit = select(vec4f(), vec4f(1), column == vec4u(TARGET[m]));
  Z[i] = select(vec4f(), d * (hit - probability), column < vec4u(p.V));
}
