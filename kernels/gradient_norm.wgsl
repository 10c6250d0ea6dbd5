// gradient_norm: the global l2 norm of gradients that lie in several chunks, without a readback.
// STAGE squares: partial[first + group] = Σ g² over a block of the chunk, BLOCK vec4s a workgroup, dispatch grid.
// STAGE total: out = (norm, min(1, limit/(norm + 1e-6)), 1 if finite else 0, 0) from all partial sums; one workgroup.
// The coefficient is torch's clip_grad_norm_. A gradient that is not finite gets coefficient 0. limit 0: never clip.
//% if (STAGE === 'squares') {
struct P { n: u32, first: u32, groups: u32 }
@group(0) @binding(0) var<storage, read> g: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> partial: array<f32>;
@group(0) @binding(2) var<uniform> p: P;

@compute @workgroup_size(${WG})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) t: u32) {
  let group = w.y * groups.x + w.x;
  let first = group * ${BLOCK};
  let last = min(first + ${BLOCK}, p.n);
  var squares = vec4f();
  for (var i = first + t; i < last; i += ${WG}) { squares += g[i] * g[i]; }
  let all = sum(squares.x + squares.y + squares.z + squares.w, t);
  if (t == 0 && group < p.groups) { partial[p.first + group] = all; }
}
//% } else {
struct P { n: u32, limit: f32 }
@group(0) @binding(0) var<storage, read> partial: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> p: P;

@compute @workgroup_size(${WG})
fn main(@builtin(local_invocation_index) t: u32) {
  var squares = 0.0;
  // Compilers assume that sums are finite, but not what lies in memory: its bits are looked at as well.
  var wrong = 0.0;
  for (var i = t; i < p.n; i += ${WG}) {
    let part = partial[i];
    squares += part;
    if ((bitcast<u32>(part) & 0x7f800000u) == 0x7f800000u) { wrong = 1.0; }
  }
  let all = sum(squares, t);
  let parts = sum(wrong, t);
  if (t == 0) {
    let finite = parts == 0.0 && (bitcast<u32>(all) & 0x7f800000u) != 0x7f800000u;
    let norm = sqrt(all);
    var coefficient = 1.0;
    if (p.limit > 0) { coefficient = min(1.0, p.limit / (norm + 1e-6)); }
    out[0] = norm;
    out[1] = select(0.0, coefficient, finite);
    out[2] = select(0.0, 1.0, finite);
  }
}
//% }
