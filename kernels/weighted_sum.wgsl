// weighted_sum: TOTAL[0] += Σ_m W[m].x · X[m] and TOTAL[1] += Σ_m W[m].y · X[m] for X [M,4], W [M,2]: the sums behind masked
// means, added up over the micro-batches of a step. Entries of weight 0 are skipped, whatever X holds there.
// Dispatch 1 with reduction.wgsl in front: one workgroup, each of its WG lanes a strided part, then over the lanes.
struct P { M: u32 }
@group(0) @binding(0) var<storage, read> X: array<vec4f>;
@group(0) @binding(1) var<storage, read> W: array<vec2f>;
@group(0) @binding(2) var<storage, read_write> TOTAL: array<vec4f>;
@group(0) @binding(3) var<uniform> p: P;
@compute @workgroup_size(${WG})
fn main(@builtin(local_invocation_index) t: u32) {
  var a = vec4f();
  var b = vec4f();
  for (var m = t; m < p.M; m += ${WG}) {
    let w = W[m];
    if (w.x != 0) { a += w.x * X[m]; }
    if (w.y != 0) { b += w.y * X[m]; }
  }
  a = sum4(a, t);
  b = sum4(b, t);
  if (t < 2) { TOTAL[t] += select(a, b, t == 1); }
}
