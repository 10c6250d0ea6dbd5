// half: H[i] = the f16 numbers nearest to VALUES[i] (ties to even), n vec4s: the copy of the weights that products read.
// By their bits, since WGSL leaves the direction of rounding to the driver, and a resumed run makes the same copy on the
// host. From 65520 on a number becomes infinite. Four vec4s a lane, 64 lanes a workgroup, dispatch grid ⌈n/256⌉.
struct P { n: u32 }
@group(0) @binding(0) var<storage, read> VALUES: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> H: array<vec2u>;
@group(0) @binding(2) var<uniform> p: P;

fn nearest(bits: vec4u) -> vec4u {
  let magnitude = bits & vec4u(0x7fffffffu);
  let normal = (magnitude + 0xfffu + ((magnitude >> vec4u(13)) & vec4u(1)) - 0x38000000u) >> vec4u(13);
  // Below 2⁻¹⁴ halves are multiples of 2⁻²⁴, which are the last bits of numbers from 0.5 to 1.
  let small = bitcast<vec4u>(bitcast<vec4f>(min(magnitude, vec4u(0x38800000u))) + 0.5) - 0x3f000000u;
  var half = select(normal, small, magnitude < vec4u(0x38800000u));
  half = select(half, vec4u(0x7c00u), magnitude >= vec4u(0x477ff000u));
  half = select(half, vec4u(0x7e00u), magnitude > vec4u(0x7f800000u));
  return ((bits >> vec4u(16)) & vec4u(0x8000u)) | half;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) t: u32) {
  let first = (w.y * groups.x + w.x) * 256 + t;
  let last = min(first + 256, p.n);
  for (var i = first; i < last; i += 64) {
    let h = nearest(VALUES[i]);
    H[i] = h.xz | (h.yw << vec2u(16));
  }
}
