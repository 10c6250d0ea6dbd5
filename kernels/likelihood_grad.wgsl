// likelihood_grad: the gradient of Σ_m −(W[m].x + W[m].y) · logp_m with respect to logp: D[m] = −(W[m].x + W[m].y).
// Dispatch ⌈M/64⌉.
struct P { M: u32 }
@group(0) @binding(0) var<storage, read> W: array<vec2f>;
@group(0) @binding(1) var<storage, read_write> D: array<f32>;
@group(0) @binding(2) var<uniform> p: P;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x < p.M) { D[id.x] = -(W[id.x].x + W[id.x].y); }
}
