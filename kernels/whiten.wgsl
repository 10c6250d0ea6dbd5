// whiten: out = (x − mean)/√(variance + 1e-8) (+ mean where KEEP_MEAN) over the places with mask > 0, 0 elsewhere.
// The variance is the biased one, from centred squares in a second pass, so that a large mean costs no digits.
// values, mask, out [M]; stats = (places, mean, variance, 0). One workgroup.
struct P { M: u32 }
@group(0) @binding(0) var<storage, read> values: array<f32>;
@group(0) @binding(1) var<storage, read> mask: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read_write> stats: array<f32>;
@group(0) @binding(4) var<uniform> p: P;

@compute @workgroup_size(${WG})
fn main(@builtin(local_invocation_index) t: u32) {
  var first = vec4f();
  for (var i = t; i < p.M; i += ${WG}) { first += select(vec4f(), vec4f(1, values[i], 0, 0), mask[i] > 0); }
  first = sum4(first, t);
  let n = max(first.x, 1);
  let rough = first.y / n;
  // The mean of what is left over corrects the rounding of the first sum.
  var second = vec4f();
  for (var i = t; i < p.M; i += ${WG}) {
    let d = values[i] - rough;
    second += select(vec4f(), vec4f(d, d * d, 0, 0), mask[i] > 0);
  }
  second = sum4(second, t) / n;
  let mean = rough + second.x;
  let variance = max(second.y - second.x * second.x, 0.0);
  let scale = 1 / sqrt(variance + 1e-8);
  for (var i = t; i < p.M; i += ${WG}) {
    //% const shifted = KEEP_MEAN ? ' + mean' : '';
    out[i] = select(0.0, (values[i] - rough - second.x) * scale${shifted}, mask[i] > 0);
  }
  if (t == 0) {
    stats[0] = first.x;
    stats[1] = mean;
    stats[2] = variance;
  }
}
