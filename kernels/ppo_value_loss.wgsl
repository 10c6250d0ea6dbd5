// ppo_value_loss: ½ Σ w · max((V − R)², (V_clip − R)²), V_clip = V held within V_old ± ε, and its gradient by V:
// w (V − R) where the unclipped term is the larger or both are equal, else 0 (V_clip is then a constant).
// values, oldValues, returns, weights, gradient [M]; weights are 0 at padding. settings = (β, discount, λ, clip, ε).
// stats [12]: tokens, loss and clipped share are added to. One workgroup.
struct P { M: u32 }
@group(0) @binding(0) var<storage, read> values: array<f32>;
@group(0) @binding(1) var<storage, read> oldValues: array<f32>;
@group(0) @binding(2) var<storage, read> returns: array<f32>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
@group(0) @binding(4) var<storage, read> settings: array<f32>;
@group(0) @binding(5) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(6) var<storage, read_write> stats: array<f32>;
@group(0) @binding(7) var<uniform> p: P;

@compute @workgroup_size(${WG})
fn main(@builtin(local_invocation_index) t: u32) {
  let clip = settings[4];
  var a = vec4f(); // tokens, loss, clipped
  for (var i = t; i < p.M; i += ${WG}) {
    let w = weights[i];
    var g = 0.0;
    if (w != 0) {
      let v = values[i];
      let moved = v - oldValues[i];
      // V itself inside the range: old + (V − old) would differ from it by rounding.
      let held = select(v, oldValues[i] + clamp(moved, -clip, clip), abs(moved) > clip);
      let error = v - returns[i];
      let heldError = held - returns[i];
      let worse = heldError * heldError > error * error;
      g = select(w * error, 0.0, worse);
      a += w * vec4f(0, 0.5 * max(error * error, heldError * heldError), select(0.0, 1.0, worse), 0);
      a.x += 1;
    }
    gradient[i] = g;
  }
  a = sum4(a, t);
  if (t == 0) { for (var i = 0u; i < 3; i++) { stats[i] += a[i]; } }
}
