// scalar_head: r[m] = gain · (h[m] · w) + bias for hidden states H [M,C] and one weight vector W [C]: rewards and values.
// SCALE = (gain, bias). GRAD: DH[m] = gain · dr[m] · w (the gradient of w is a scaled column sum). ld in vec4s.
// Dispatch ⌈M/ROWS⌉, rows as in norm.wgsl; GRAD ⌈M·ld/64⌉.
//% const lanes = SUBGROUP || 64, rows = 64 / lanes;
//% if (SUBGROUP && !GRAD) {
enable subgroups;
//% }
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
//% if (!SUBGROUP) {
var<workgroup> part: array<f32, 64>;
//% }
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) t: u32) {
  let lane = t % ${lanes};
  let row = w.x * ${rows} + t / ${lanes};
  let base = min(row, p.M - 1) * p.ld;
  var sum = 0.0;
  for (var c = lane; c < p.ld; c += ${lanes}) { sum += dot(H[base + c], W[c]); }
  //% if (SUBGROUP) {
  let all = subgroupAdd(sum);
  //% } else {
  part[lane] = sum;
  workgroupBarrier();
  for (var d = 32u; d > 0; d /= 2) {
    if (lane < d) { part[lane] += part[lane + d]; }
    workgroupBarrier();
  }
  let all = part[0];
  //% }
  if (row < p.M && lane == 0) { R[row] = SCALE[0] * all + SCALE[1]; }
}
//% }
