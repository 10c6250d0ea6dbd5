// adamw: one step in place on a chunk of n vec4s, with decoupled weight decay on the first p.decayed of them:
//   g ← clip·g,  w ← w − lr·decay·w,  m ← m + (1−β1)(g − m),  v ← v + (1−β2)(g² − v),
//   w ← w − lr · m/(1−β1ᵗ) / (√(v/(1−β2ᵗ)) + eps)
// hyper = (lr, 1−β1, 1−β2, eps, lr·decay, 1/(1−β1ᵗ), 1/(1−β2ᵗ)), from double precision on the host; clip is what
// gradient_norm wrote: where its flag says that the gradient is not finite, everything stays as it was.
// Four vec4s a lane, 64 lanes a workgroup, dispatch grid ⌈n/256⌉.
struct P { n: u32, decayed: u32 }
@group(0) @binding(0) var<storage, read> gradients: array<vec4f>;
@group(0) @binding(1) var<storage, read> clip: array<f32>;
@group(0) @binding(2) var<storage, read> hyper: array<f32>;
@group(0) @binding(3) var<storage, read_write> values: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> m: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> v: array<vec4f>;
@group(0) @binding(6) var<uniform> p: P;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) t: u32) {
  if (clip[2] == 0) { return; }
  let first = (w.y * groups.x + w.x) * 256 + t;
  let last = min(first + 256, p.n);
  for (var i = first; i < last; i += 64) {
    let g = gradients[i] * clip[1];
    let m1 = m[i] + hyper[1] * (g - m[i]);
    let v1 = v[i] + hyper[2] * (g * g - v[i]);
    m[i] = m1;
    v[i] = v1;
    let decay = select(0.0, hyper[4], i < p.decayed);
    let old = values[i];
    values[i] = old - decay * old - hyper[0] * (m1 * hyper[5]) / (sqrt(v1 * hyper[6]) + hyper[3]);
  }
}
