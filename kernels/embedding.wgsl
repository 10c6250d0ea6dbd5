// embedding: X[n] = WTE[ID[n]] (+ WPE[POS[n]] where positions are learned). X [N,C], strides in vec4s.
// WTE may be rows FIRST… of a larger table: tokens of other rows are then left to other dispatches. Dispatch ⌈N·ld/64⌉, a vec4 a lane.
struct P { count: u32, ld: u32, first: u32, rows: u32 }
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
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i >= p.count) { return; }
  let n = i / p.ld;
  let c = i % p.ld;
  let row = ID[n] - p.first;
  if (row >= p.rows) { return; }
  //% if (LEARNED) {
  X[i] = WTE[row * p.ld + c] + WPE[POS[n] * p.ld + c];
  //% } else {
  X[i] = WTE[row * p.ld + c];
  //% }
}
