// swiglu: y = silu(g) · u, where GU [N, 2F] holds the gates in columns 0…F−1 and the up-projection in F…2F−1.
// GRAD: from DY writes dGU: dg = dy·u·(s + g·s·(1 − s)), du = dy·g·s, with s = 1/(1 + e^(−g)). F is a multiple of 4.
// Dispatch rowGrid(F/4, N), a vec4 of columns a lane.
struct P { N: u32, each: u32, F: u32, ld: u32, ldy: u32 }
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
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) t: u32) {
  let f = w.x * 64 + t;
  let end = min((w.y + 1) * p.each, p.N);
  if (f >= p.F) { return; }
  for (var n = w.y * p.each; n < end; n++) {
    let g = GU[n * p.ld + f];
    let u = GU[n * p.ld + p.F + f];
    let s = 1 / (1 + exp(min(-g, vec4f(80)))); // beyond, exp would overflow, and compilers may assume that nothing does
    //% if (GRAD) {
    let dy = DY[n * p.ldy + f];
    OUT[n * p.ld + f] = dy * u * (s + g * s * (1 - s));
    OUT[n * p.ld + p.F + f] = dy * g * s;
    //% } else {
    OUT[n * p.ldy + f] = g * s * u;
    //% }
  }
}
