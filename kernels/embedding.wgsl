// embedding: X[n] = WTE[ID[n]] (+ WPE[POS[n]] where positions are learned). X [N,C], strides in vec4s.
// WTE may be rows FIRST… of a larger table: tokens of other rows are then left to other dispatches. Dispatch
// rowGrid(ld, N), a vec4 of columns a lane.
struct P { N: u32, each: u32, ld: u32, first: u32, rows: u32 }
@group(0) @binding(0) var<storage, read> ID: array<u32>;
@group(0) @binding(1) var<storage, read> WTE: array<vec4f>;
//% if (LEARNED) {
@group(0) @binding(2) var<storage, read> POS: array<u32>;
@group(0) @binding(3) var<storage, read> WPE: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> X: array<vec4f>;
@group(0) @binding(5) var<uniform> p: P;
//% } else {
@group(0) @binding(2) var<storage, read_write> X: array<vec4f>;
@group(0) @binding(3) var<uniform> p: P;
//% }
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) t: u32) {
  let c = w.x * 64 + t;
  let end = min((w.y + 1) * p.each, p.N);
  if (c >= p.ld) { return; }
  for (var n = w.y * p.each; n < end; n++) {
    let i = n * p.ld + c;
    let row = ID[n] - p.first;
    if (row >= p.rows) { continue; }
    //% if (LEARNED) {
    X[i] = WTE[row * p.ld + c] + WPE[POS[n] * p.ld + c];
    //% } else {
    X[i] = WTE[row * p.ld + c];
    //% }
  }
}
