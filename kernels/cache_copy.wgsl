// cache_copy: copies the first keys and values of one slot's cache to another's, so that a prompt that is answered K times
// passes through the model once. PAIR [Q,4] = (from slot, to slot, places, –); K, V [slots, LENGTH, WIDTH].
// Dispatch (⌈LENGTH·WIDTH/64⌉, Q), a number a lane.
struct P { length: u32, width: u32 }
@group(0) @binding(0) var<storage, read> PAIR: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> K: array<f32>;
@group(0) @binding(2) var<storage, read_write> V: array<f32>;
@group(0) @binding(3) var<uniform> p: P;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let pair = PAIR[id.y];
  if (id.x >= pair.z * p.width) { return; }
  let here = pair.x * p.length * p.width + id.x;
  let there = pair.y * p.length * p.width + id.x;
  K[there] = K[here];
  V[there] = V[here];
}
