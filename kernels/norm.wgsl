// norm: y = (x − mean)/√(var + eps) · g + b, a row at a time (KIND layer), or y = x/√(mean(x²) + eps) · g (KIND rms).
// X, Y [N,C]; G, B [C]; S [N,2] keeps (mean, 1/√…) of each row for the gradient. Strides in vec4s.
// Dispatch ⌈N/ROWS⌉: with subgroups a subgroup takes a row and a workgroup of 64 takes ROWS = 64/SUBGROUP rows,
// otherwise a workgroup takes one row and reduces in workgroup memory.
//% const lanes = SUBGROUP || 64, rows = 64 / lanes;
//% if (SUBGROUP) {
enable subgroups;
//% }
struct P { N: u32, C: u32, ld: u32, eps: f32 }
@group(0) @binding(0) var<storage, read> X: array<vec4f>;
@group(0) @binding(1) var<storage, read> G: array<vec4f>;
//% let at = 2;
//% if (KIND === 'layer') {
@group(0) @binding(${at++}) var<storage, read> B: array<vec4f>;
//% }
@group(0) @binding(${at++}) var<storage, read_write> Y: array<vec4f>;
@group(0) @binding(${at++}) var<storage, read_write> S: array<vec2f>;
@group(0) @binding(${at++}) var<uniform> p: P;
//% if (!SUBGROUP) {
var<workgroup> part: array<f32, 64>;
fn total(v: f32, lane: u32) -> f32 {
  part[lane] = v;
  workgroupBarrier();
  for (var d = 32u; d > 0; d /= 2) {
    if (lane < d) { part[lane] += part[lane + d]; }
    workgroupBarrier();
  }
  let sum = part[0];
  workgroupBarrier();
  return sum;
}
//% } else {
fn total(v: f32, lane: u32) -> f32 { return subgroupAdd(v); }
//% }
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) t: u32) {
  let lane = t % ${lanes};
  let row = w.x * ${rows} + t / ${lanes};
  let base = min(row, p.N - 1) * p.ld;
  var sum = vec4f();
  for (var c = lane; c < p.ld; c += ${lanes}) {
    let x = X[base + c];
    //% if (KIND === 'layer') {
    sum += x;
    //% } else {
    sum += x * x;
    //% }
  }
  let first = total(sum.x + sum.y + sum.z + sum.w, lane) / f32(p.C);
  //% if (KIND === 'layer') {
  let mean = first;
  var squares = vec4f();
  for (var c = lane; c < p.ld; c += ${lanes}) {
    let d = select(vec4f(), X[base + c] - mean, vec4u(0, 1, 2, 3) + c * 4 < vec4u(p.C));
    squares += d * d;
  }
  let r = 1 / sqrt(total(squares.x + squares.y + squares.z + squares.w, lane) / f32(p.C) + p.eps);
  //% } else {
  let mean = 0.0;
  let r = 1 / sqrt(first + p.eps);
  //% }
  if (row < p.N) {
    for (var c = lane; c < p.ld; c += ${lanes}) {
      //% if (KIND === 'layer') {
      Y[base + c] = (X[base + c] - mean) * r * G[c] + B[c]; // G and B are zero in the padding columns
      //% } else {
      Y[base + c] = X[base + c] * r * G[c];
      //% }
    }
    if (lane == 0) { S[row] = vec2f(mean, r); }
  }
}
