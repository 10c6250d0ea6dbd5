// swiglu: y = silu(g) · u, where GU [N, 2F] holds the gates in columns 0…F−1 and the up-projection in F…2F−1.
// GRAD: from DY writes dGU: dg = dy·u·(s + g·s·(1 − s)), du = dy·g·s, with s = 1/(1 + e^(−g)). F is a multiple of 4.
// Dispatch ⌈N·F/4/64⌉, a vec4 a lane.
struct P { count: u32, F: u32, ld: u32, ldy: u32 }
@group(0) @binding(0) var<storage, read> GU: array<vec4f>;
//% if (GRAD) {
@group(0) @binding(1) var<storage, read> DY: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> OUT: array<vec4f>;
@group(0) @binding(3) var<uniform> p: P;
//% } else {
@group(0) @binding(1) var<storage, read_write> OUT: array<vec4f>;
@group(0) @binding(2) var<uniform> p: P;
//% }
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i >= p.count) { return; }
  let n = i / p.F;
  let f = i % p.F;
  let g = GU[n * p.ld + f];
  let u = GU[n * p.ld + p.F + f];
  let s = 1 / (1 + exp(-g));
  //% if (GRAD) {
  let dy = DY[n * p.ldy + f];
  OUT[n * p.ld + f] = dy * u * (s + g * s * (1 - s));
  OUT[n * p.ld + p.F + f] = dy * g * s;
  //% } else {
  OUT[n * p.ldy + f] = g * s * u;
  //% }
}
