// token_logprob_grad: turns logits into their gradient in place: dz_v = d · (1[v = target] − p_v) / τ, with
// p_v = exp(z_v/τ − lse) and d = DLOGP[m] the gradient of the target's log-probability. STATS as token_logprob left it.
// Padding columns become zero. Dispatch rowGrid(ld, M), a vec4 of columns a lane.
struct P { M: u32, each: u32, V: u32, ld: u32, inverse_temperature: f32 }
@group(0) @binding(0) var<storage, read> TARGET: array<u32>;
@group(0) @binding(1) var<storage, read> STATS: array<vec4f>;
@group(0) @binding(2) var<storage, read> DLOGP: array<f32>;
@group(0) @binding(3) var<storage, read_write> Z: array<vec4f>;
@group(0) @binding(4) var<uniform> p: P;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) t: u32) {
  let c = w.x * 64 + t;
  let end = min((w.y + 1) * p.each, p.M);
  if (c >= p.ld) { return; }
  for (var m = w.y * p.each; m < end; m++) {
    let i = m * p.ld + c;
    let column = c * 4 + vec4u(0, 1, 2, 3);
    let d = DLOGP[m] * p.inverse_temperature;
    let probability = exp(Z[i] * p.inverse_temperature - STATS[m].w);
    let hit = select(vec4f(), vec4f(1), column == vec4u(TARGET[m]));
    Z[i] = select(vec4f(), d * (hit - probability), column < vec4u(p.V));
  }
}
