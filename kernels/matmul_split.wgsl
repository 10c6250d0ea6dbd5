// matmul_split: sums the parts of a product whose K was split (STORE part of matmul_tiled.wgsl), always in the order of K:
//   C[M,N] = Σ_s PART[s,M,N]          ADD: C += scale · Σ_s PART[s,M,N]
// COLUMNS: each part has a row more, with its sums of B's columns: G[N] += Σ_s PART[s,M,N].
// Strides count vec4s; size is a part's, M · ldp or (M + 1) · ldp; ldp and ldc are the strides of PART and C. One thread a vec4, 64 a
// workgroup, grid in x and y.
struct P { size: u32, parts: u32, ldp: u32, ldc: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> PART: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> C: array<vec4f>;
//% if (COLUMNS) {
@group(0) @binding(2) var<storage, read_write> G: array<vec4f>;
//% }
@group(0) @binding(${COLUMNS ? 3 : 2}) var<uniform> p: P;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) g: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = g.y * groups.x * 64 + g.x;
  if (i >= p.size) { return; }
  var sum = PART[i];
  for (var s = 1u; s < p.parts; s++) { sum += PART[s * p.size + i]; }
  //% if (COLUMNS) {
  let product = p.size - p.ldp;
  if (i >= product) {
    G[i - product] += sum;
    return;
  }
  //% }
  let at = (i / p.ldp) * p.ldc + i % p.ldp;
  //% if (ADD) {
  C[at] += p.scale * sum;
  //% } else {
  C[at] = sum;
  //% }
}
