// first_column: OUT[m] = X[m].x for X [M,4]: the log-probabilities out of token_logprob's statistics. Dispatch ⌈M/64⌉.
struct P { M: u32 }
@group(0) @binding(0) var<storage, read> X: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> OUT: array<f32>;
@group(0) @binding(2) var<uniform> p: P;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x < p.M) { OUT[id.x] = X[id.x].x; }
}
