// zero_outside_blocks: B[M,K] ← 0 where row and column belong to different parts of a block-diagonal matrix: columns
// q·width … (q+1)·width−1 are the q-th part's, whose rows are first_q … last_q−1 (at most four parts, in p.parts as
// (first, last)). Keeps the gradient of fused low-rank matrices inside their blocks, whose outside is no parameter.
// ld counts numbers a row. Dispatch ⌈M·ld/64⌉ (in two dimensions where one does not reach).
struct P { M: u32, ld: u32, width: u32, count: u32, a: vec4u, b: vec4u }
@group(0) @binding(0) var<storage, read_write> B: array<f32>;
@group(0) @binding(1) var<uniform> p: P;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i >= p.M * p.ld) { return; }
  let row = i / p.ld;
  let part = (i % p.ld) / p.width;
  let pair = select(p.a, p.b, part >= 2);
  let range = select(pair.xy, pair.zw, part % 2 == 1);
  if (part >= p.count || row < range.x || row >= range.y) { B[i] = 0; }
}
