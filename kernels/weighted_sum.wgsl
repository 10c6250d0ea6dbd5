// weighted_sum: TOTAL[0] += Σ_m W[m].x · X[m] and TOTAL[1] += Σ_m W[m].y · X[m] for X [M,4], W [M,2]: the sums behind masked
// means, added up over the micro-batches of a step. Entries of weight 0 are skipped, whatever X holds there.
// Dispatch 1: one workgroup, each lane a strided part, then a tree.
struct P { M: u32 }
@group(0) @binding(0) var<storage, read> X: array<vec4f>;
@group(0) @binding(1) var<storage, read> W: array<vec2f>;
@group(0) @binding(2) var<storage, read_write> TOTAL: array<vec4f>;
@group(0) @binding(3) var<uniform> p: P;
var<workgroup> first: array<vec4f, 64>;
var<workgroup> second: array<vec4f, 64>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) t: u32) {
  var a = vec4f();
  var b = vec4f();
  for (var m = t; m < p.M; m += 64) {
    let w = W[m];
    if (w.x != 0) { a += w.x * X[m]; }
    if (w.y != 0) { b += w.y * X[m]; }
  }
  first[t] = a;
  second[t] = b;
  workgroupBarrier();
  for (var d = 32u; d > 0; d /= 2) {
    if (t < d) {
      first[t] += first[t + d];
      second[t] += second[t + d];
    }
    workgroupBarrier();
  }
  if (t == 0) {
    TOTAL[0] += first[0];
    TOTAL[1] += second[0];
  }
}
