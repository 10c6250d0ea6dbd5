// cache_copy: copies the first keys and values of one slot's cache to another's, so that a prompt that is answered K times
// passes through the model once. PAIR [Q,4] = (from slot, to slot, places, –); K, V [slots, key heads, LENGTH, D].
// WIDTH = key heads · D. VEC: D is a multiple of 4, and counts are of vec4s. Dispatch (…rowGrid(WIDTH, LENGTH), Q), a column a lane.
//% const type = VEC ? 'vec4f' : 'f32';
struct P { length: u32, each: u32, width: u32, d: u32 }
@group(0) @binding(0) var<storage, read> PAIR: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> K: array<${type}>;
@group(0) @binding(2) var<storage, read_write> V: array<${type}>;
@group(0) @binding(3) var<uniform> p: P;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) t: u32) {
  let c = w.x * 64 + t;
  let pair = PAIR[w.z];
  let end = min((w.y + 1) * p.each, pair.z);
  if (c >= p.width) { return; }
  for (var place = w.y * p.each; place < end; place++) {
    let within = (c / p.d * p.length + place) * p.d + c % p.d;
    let here = pair.x * p.width * p.length + within;
    let there = pair.y * p.width * p.length + within;
    K[there] = K[here];
    V[there] = V[here];
  }
}
