// token_logprob: for logits z [M,V] and a temperature τ: lse = log Σ_v exp(z_v/τ), logp = z_target/τ − lse,
// entropy = lse − Σ_v p_v z_v/τ, and whether the target is the most likely token. OUT [M,4] = (logp, entropy, correct, lse).
// V is not padded here: columns ≥ V of a row are left out. Dispatch grid(⌈M/ROWS⌉), rows as in norm.wgsl.
struct P { M: u32, V: u32, ld: u32, inverse_temperature: f32 }
@group(0) @binding(0) var<storage, read> Z: array<vec4f>;
@group(0) @binding(1) var<storage, read> TARGET: array<u32>;
@group(0) @binding(2) var<storage, read_write> OUT: array<vec4f>;
@group(0) @binding(3) var<uniform> p: P;
const LOWEST = -3.0e38;
@compute @workgroup_size(${WG})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) t: u32) {
  let lane = t % ${LANES};
  let row = (w.y * groups.x + w.x) * ${WG / LANES} + t / ${LANES};
  let base = min(row, p.M - 1) * p.ld;
  let whole = p.V / 4; // vec4s without padding
  var top = vec4f(LOWEST);
  for (var c = lane; c < whole; c += ${LANES}) { top = max(top, Z[base + c]); }
  if (whole * 4 < p.V && lane == 0) { top = max(top, select(vec4f(LOWEST), Z[base + whole], vec4u(0, 1, 2, 3) + whole * 4 < vec4u(p.V))); }
  let m = max1(max(max(top.x, top.y), max(top.z, top.w)), t);
  let shift = m * p.inverse_temperature;
  var mass = vec4f();
  var weighted = vec4f();
  for (var c = lane; c < p.ld; c += ${LANES}) {
    let inside = vec4u(0, 1, 2, 3) + c * 4 < vec4u(p.V);
    let z = Z[base + c] * p.inverse_temperature - shift;
    let e = select(vec4f(), exp(z), inside);
    mass += e;
    weighted += select(vec4f(), e * z, inside);
  }
  let sums = sum4(vec4f(mass.x + mass.y + mass.z + mass.w, weighted.x + weighted.y + weighted.z + weighted.w, 0, 0), t);
  if (row < p.M && lane == 0) {
    let label = TARGET[row];
    let z = Z[base + label / 4][label % 4];
    let log_sum = log(sums.x);
    OUT[row] = vec4f(z * p.inverse_temperature - shift - log_sum, log_sum - sums.y / sums.x, select(0.0, 1.0, z == m), log_sum + shift);
  }
}
