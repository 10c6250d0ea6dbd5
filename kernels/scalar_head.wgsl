// scalar_head: r[m] = gain · (h[m] · w) + bias for hidden states H [M,C] and one weight vector W [C]: rewards and values.
// SCALE = (gain, bias). GRAD: DH[m] = gain · dr[m] · w (the gradient of w is a scaled column sum). ld in vec4s.
// Dispatch grid(⌈M/ROWS⌉), rows as in norm.wgsl; GRAD ⌈M·ld/64⌉.
struct P { M: u32, ld: u32 }
@group(0) @binding(0) var<storage, read> W: array<vec4f>;
@group(0) @binding(1) var<storage, read> SCALE: array<f32>;
//% if (GRAD) {
@group(0) @binding(2) var<storage, read> DR: array<f32>;
@group(0) @binding(3) var<storage, read_write> DH: array<vec4f>;
@group(0) @binding(4) var<uniform> p: P;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i >= p.M * p.ld) { return; }
  DH[i] = SCALE[0] * DR[i / p.ld] * W[i % p.ld];
}
//% } else {
@group(0) @binding(2) var<storage, read> H: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> R: array<f32>;
@group(0) @binding(4) var<uniform> p: P;
@compute @workgroup_size(${WG})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) t: u32) {
  let lane = t % ${LANES};
  let row = (w.y * groups.x + w.x) * ${WG / LANES} + t / ${LANES};
  let base = min(row, p.M - 1) * p.ld;
  var part = 0.0;
  for (var c = lane; c < p.ld; c += ${LANES}) { part += dot(H[base + c], W[c]); }
  let all = sum(part, t);
  if (row < p.M && lane == 0) { R[row] = SCALE[0] * all + SCALE[1]; }
}
//% }
