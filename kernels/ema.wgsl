// ema: average ← average + rate·(values − average) in place, n numbers as vec4s; rate = 1 − decay lies in a buffer.
// Four vec4s a lane, 64 lanes a workgroup, dispatch grid ⌈n/256⌉.
struct P { n: u32 }
@group(0) @binding(0) var<storage, read> values: array<vec4f>;
@group(0) @binding(1) var<storage, read> rate: array<f32>;
@group(0) @binding(2) var<storage, read_write> average: array<vec4f>;
@group(0) @binding(3) var<uniform> p: P;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) t: u32) {
  let first = (w.y * groups.x + w.x) * 256 + t;
  let last = min(first + 256, p.n);
  for (var i = first; i < last; i += 64) { average[i] += rate[0] * (values[i] - average[i]); }
}
