// sampler: one token a row from softmax(logits/temperature), after top-k and top-p, by one random number and the
// inverse of the cumulative distribution; temperature 0 takes the largest logit, the lowest id where several are equal.
// logits [S,V]; keys [S,4] the Philox counter of each row's draw; settings = (temperature, top-p: f32; top-k, seed,
// iteration: u32). tokens [S] u32; logprobs [S] under the softmax at that temperature over all of V (at 1 if greedy).
// Thresholds are found by bisection, two bits a pass, over the logits' bits in an order that sorts as the numbers do:
// top-k keeps every tie of the k-th; top-p then drops what lies below a total of 1 − p of the mass that top-k left.
// A row with a logit that is NaN or +∞ gets 0xffffffff, no token: a model that overflows must not seem to answer.
// A row's result depends on its logits and its key alone. A workgroup of WG lanes a row; a draw is searched in the order of tokens, (chunk)
// vec4s that lie together a lane; dispatch S. p.shift is 30: the loop over passes must not have a constant length, or drivers unroll it.
//% // All that a row's lanes look at together: on a CPU each what lies together, on a GPU what lies beside the others'.
//% const each = CPU_LANES ? 'var i = first; i < last; i++' : `var i = t; i < p.ld; i += ${WG}`;
struct P { V: u32, ld: u32, chunk: u32, shift: u32 }
@group(0) @binding(0) var<storage, read> logits: array<vec4f>;
@group(0) @binding(1) var<storage, read> keys: array<vec4u>;
@group(0) @binding(2) var<storage, read> settings: array<u32>;
@group(0) @binding(3) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(4) var<storage, read_write> logprobs: array<f32>;
@group(0) @binding(5) var<uniform> p: P;

const LOWEST = -3.0e38; // stands for −∞ (and for the padding of a row): its probability is 0
var<workgroup> masses: array<f32, ${WG}>;
var<workgroup> chosen: u32;
var<workgroup> remaining: f32;

fn scaled(base: u32, i: u32, temperature: f32) -> vec4f {
  let x = clamp(logits[base + i] / temperature, vec4f(LOWEST), vec4f(-LOWEST));
  return select(vec4f(LOWEST), x, vec4u(0, 1, 2, 3) + i * 4 < vec4u(p.V));
}
// Unsigned integers that sort as the numbers do; −0 counts as 0.
fn ordered(x: vec4f) -> vec4u {
  let given = bitcast<vec4u>(x);
  let bits = select(given, vec4u(), (given << vec4u(1)) == vec4u()); // by its bits: compilers may take −0 for 0
  return select(bits | vec4u(0x80000000u), ~bits, (bits >> vec4u(31)) == vec4u(1));
}
fn weights(x: vec4f, top: f32) -> vec4f { return exp(x - top); }
fn only(v: vec4f, keep: vec4<bool>) -> vec4f { return select(vec4f(), v, keep); }
fn total(v: vec4f) -> f32 { return v.x + v.y + v.z + v.w; }

@compute @workgroup_size(${WG})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) t: u32) {
  let row = w.x;
  let base = row * p.ld;
  let first = min(t * p.chunk, p.ld);
  let last = min(first + p.chunk, p.ld);
  let greedy = settings[0] == 0;
  let temperature = select(bitcast<f32>(settings[0]), 1.0, greedy);
  let topP = bitcast<f32>(settings[1]);
  let topK = settings[2];

  var highest = vec4f(LOWEST);
  var broken = vec4f();
  for (${each}) {
    highest = max(highest, scaled(base, i, temperature));
    let bits = bitcast<vec4u>(logits[base + i]); // by its bits: compilers assume NaN away
    let wrong = ((bits & vec4u(0x7f800000u)) == vec4u(0x7f800000u)) & (bits != vec4u(0xff800000u));
    broken += only(only(vec4f(1), wrong), vec4u(0, 1, 2, 3) + i * 4 < vec4u(p.V));
  }
  let both = max4(vec4f(max(max(highest.x, highest.y), max(highest.z, highest.w)), total(broken), 0, 0), t);
  let top = both.x;
  let none = both.y > 0;
  var all = vec4f();
  for (${each}) {
    let x = scaled(base, i, temperature);
    all += only(weights(x, top), vec4u(0, 1, 2, 3) + i * 4 < vec4u(p.V));
  }
  let logAll = log(sum(total(all), t));

  if (greedy) {
    var nearest = 0.0; // V − id, the largest of which is the lowest id
    for (${each}) {
      let at = vec4f(f32(p.V) - f32(i * 4)) - vec4f(0, 1, 2, 3);
      let best = only(at, scaled(base, i, temperature) == vec4f(top));
      nearest = max(nearest, max(max(best.x, best.y), max(best.z, best.w)));
    }
    let id = p.V - u32(max(max1(nearest, t), 1));
    if (t == 0) {
      tokens[row] = select(id, 0xffffffffu, none);
      logprobs[row] = -logAll;
    }
    return;
  }

  var least = 0u; // what sorts below is dropped
  if (topK > 0 && topK < p.V) {
    for (var shift = p.shift; ; shift -= 2) { // the largest number that topK numbers or more reach
      let bar = vec3u(least) + (vec3u(1, 2, 3) << vec3u(shift));
      var count = vec4f();
      for (${each}) {
        let o = ordered(scaled(base, i, temperature));
        let real = vec4u(0, 1, 2, 3) + i * 4 < vec4u(p.V);
        let one = only(vec4f(1), real);
        count += vec4f(total(only(one, o >= vec4u(bar.x))), total(only(one, o >= vec4u(bar.y))),
          total(only(one, o >= vec4u(bar.z))), 0);
      }
      let reached = sum4(count, t).xyz >= vec3f(f32(topK));
      least = select(select(select(least, bar.x, reached.x), bar.y, reached.y), bar.z, reached.z);
      if (shift == 0) { break; }
    }
  }
  if (topP < 1) {
    let floor = least;
    var mass = vec4f();
    for (${each}) {
      let x = scaled(base, i, temperature);
      mass += only(weights(x, top), ordered(x) >= vec4u(floor));
    }
    let dropped = (1 - topP) * sum(total(mass), t);
    least = 0;
    for (var shift = p.shift; ; shift -= 2) { // the largest number with no more than this below it
      let bar = vec3u(least) + (vec3u(1, 2, 3) << vec3u(shift));
      var below = vec4f();
      for (${each}) {
        let x = scaled(base, i, temperature);
        let o = ordered(x);
        let m = only(weights(x, top), o >= vec4u(floor));
        below += vec4f(total(only(m, o < vec4u(bar.x))), total(only(m, o < vec4u(bar.y))),
          total(only(m, o < vec4u(bar.z))), 0);
      }
      let small = sum4(below, t).xyz <= vec3f(dropped);
      least = select(select(select(least, bar.x, small.x), bar.y, small.y), bar.z, small.z);
      if (shift == 0) { break; }
    }
    least = max(floor, min(least, ordered(vec4f(top)).x)); // the most likely token always stays
  }

  var own = 0.0; // summed as it is searched below, one number after the other
  for (var i = first; i < last; i++) {
    let x = scaled(base, i, temperature);
    let m = only(weights(x, top), ordered(x) >= vec4u(least));
    own = own + m.x + m.y + m.z + m.w;
  }
  masses[t] = own;
  workgroupBarrier();
  if (t == 0) {
    var whole = 0.0;
    for (var l = 0u; l < ${WG}; l++) { whole += masses[l]; }
    let target_ = uniform24(philox(keys[row], vec2u(settings[3], settings[4])).x) * whole;
    var before = 0.0;
    var lane = 0u;
    var rest = 0.0;
    for (var l = 0u; l < ${WG}; l++) {
      if (masses[l] > 0) { // if rounding leaves the target past the end, the last lane with mass has it
        lane = l;
        rest = target_ - before;
        if (target_ < before + masses[l]) { break; }
      }
      before += masses[l];
    }
    chosen = lane;
    remaining = rest;
  }
  workgroupBarrier();
  if (t == chosen) {
    var id = 0u;
    var x = top;
    var reached = 0.0;
    var found = false;
    for (var i = first; i < last && !found; i++) {
      let xs = scaled(base, i, temperature);
      let m = only(weights(xs, top), ordered(xs) >= vec4u(least));
      for (var c = 0u; c < 4 && !found; c++) {
        if (m[c] > 0) { // never a token of probability 0
          id = i * 4 + c;
          x = xs[c];
        }
        reached += m[c];
        found = remaining < reached;
      }
    }
    tokens[row] = select(min(id, p.V - 1), 0xffffffffu, none);
    logprobs[row] = x - top - logAll;
  }
}
