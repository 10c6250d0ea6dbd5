// cache_write: stores the (rotated) keys and values of tokens in their rows' caches: K[slot, position, :] and V alike.
// QKV [N, …] with keys from column KOFF and values from VOFF, WIDTH = key heads · D columns each; SLOT [N] (0xffffffff: none),
// POS [N]; K, V [slots, LENGTH, WIDTH]. Dispatch ⌈N·WIDTH/64⌉, a number a lane.
struct P { count: u32, width: u32, ld: u32, koff: u32, voff: u32, length: u32 }
@group(0) @binding(0) var<storage, read> SLOT: array<u32>;
@group(0) @binding(1) var<storage, read> POS: array<u32>;
@group(0) @binding(2) var<storage, read> QKV: array<f32>;
@group(0) @binding(3) var<storage, read_write> K: array<f32>;
@group(0) @binding(4) var<storage, read_write> V: array<f32>;
@group(0) @binding(5) var<uniform> p: P;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i >= p.count) { return; }
  let n = i / p.width;
  let c = i % p.width;
  let slot = SLOT[n];
  if (slot == 0xffffffffu || POS[n] >= p.length) { return; }
  let to = (slot * p.length + POS[n]) * p.width + c;
  K[to] = QKV[n * p.ld + p.koff + c];
  V[to] = QKV[n * p.ld + p.voff + c];
}
