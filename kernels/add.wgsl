// add: A += B, element by element, in vec4s. Dispatch ⌈count/64⌉ (in two dimensions where one does not reach).
struct P { count: u32 }
@group(0) @binding(0) var<storage, read_write> A: array<vec4f>;
@group(0) @binding(1) var<storage, read> B: array<vec4f>;
@group(0) @binding(2) var<uniform> p: P;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i < p.count) { A[i] += B[i]; }
}
