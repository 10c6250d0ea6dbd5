// column_sum: PART[b, c] = Σ over the rows r of block b of the terms below; then (STAGE 2) G[c] += Σ_b PART[b, c].
//   KIND plain: DY[r,c]     normed: DY[r,c]·(X[r,c] − mean_r)·rstd_r, (mean, rstd) = S[r]     scaled: DY[r,c]·W[r]
//   KIND layer: normed for G and plain for B in one go, the second in the second half of PART and of the grid's y in STAGE 2
// The gradients of biases (plain), of norm weights (normed; with biases layer) and of a scalar head (scaled). Two stages, because
// WGSL has no float atomics, and a fixed order repeats bit for bit. width = ⌈C/4⌉ vec4s of each row are read, ld apart; rows of PART
// lie width apart. Dispatch (⌈width/WG⌉, blocks), WG lanes, a vec4 of columns a lane.
struct P { N: u32, ld: u32, width: u32, block: u32, blocks: u32 }
@group(0) @binding(0) var<storage, read> DY: array<vec4f>;
//% let at = 1;
//% const normed = KIND === 'normed' || KIND === 'layer';
//% if (STAGE === 1 && normed) {
@group(0) @binding(${at++}) var<storage, read> X: array<vec4f>;
@group(0) @binding(${at++}) var<storage, read> S: array<vec2f>;
//% }
//% if (STAGE === 1 && KIND === 'scaled') {
@group(0) @binding(${at++}) var<storage, read> W: array<f32>;
//% }
@group(0) @binding(${at++}) var<storage, read_write> OUT: array<vec4f>;
//% if (STAGE === 2 && KIND === 'layer') {
@group(0) @binding(${at++}) var<storage, read_write> B: array<vec4f>;
//% }
@group(0) @binding(${at++}) var<uniform> p: P;
@compute @workgroup_size(${WG})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) t: u32) {
  let c = w.x * ${WG} + t;
  if (c >= p.width) { return; }
  var sum = vec4f();
  //% if (STAGE === 1) {
  //% if (KIND === 'layer') {
  var plain = vec4f();
  //% }
  let end = min(p.N, (w.y + 1) * p.block);
  for (var r = w.y * p.block; r < end; r++) {
    //% if (KIND === 'plain') {
    sum += DY[r * p.ld + c];
    //% } else if (normed) {
    let s = S[r];
    let dy = DY[r * p.ld + c];
    sum += dy * ((X[r * p.ld + c] - s.x) * s.y);
    //% if (KIND === 'layer') {
    plain += dy;
    //% }
    //% } else {
    sum += DY[r * p.ld + c] * W[r];
    //% }
  }
  OUT[w.y * p.width + c] = sum;
  //% if (KIND === 'layer') {
  OUT[(p.blocks + w.y) * p.width + c] = plain;
  //% }
  //% } else {
  let first = w.y * p.blocks;
  for (var b = first; b < first + p.blocks; b++) { sum += DY[b * p.width + c]; }
  //% if (KIND === 'layer') {
  if (w.y == 1) {
    B[c] += sum;
    return;
  }
  //% }
  OUT[c] += sum;
  //% }
}
