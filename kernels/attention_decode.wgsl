// attention_decode: one query a row against the row's cache: o = Σ_{j ≤ position} softmax_j(q·k_j·scale) v_j.
// QKV [A, …] holds the queries; K, V [slots, LENGTH, kv·D]; SLOT, POS [A]; O [A, H·D]. Rows without a slot give zeros.
// Dispatch (A, H), LANES lanes: lane = every LANES-th key with its own running softmax, merged at the end; the order of
// summation depends on the position alone, not on the rows beside it.
//% const D4 = Math.ceil(D / 4), vec = D % 4 === 0;
//% const list = (n) => [...Array(n).keys()];
//% if (SUBGROUP) {
enable subgroups;
//% }
struct P { H: u32, ld: u32, ldo: u32, width: u32, length: u32, group: u32, scale: f32 }
//% const array = vec ? 'array<vec4f>' : 'array<f32>';
@group(0) @binding(0) var<storage, read> SLOT: array<u32>;
@group(0) @binding(1) var<storage, read> POS: array<u32>;
@group(0) @binding(2) var<storage, read> QKV: ${array};
@group(0) @binding(3) var<storage, read> K: ${array};
@group(0) @binding(4) var<storage, read> V: ${array};
@group(0) @binding(5) var<storage, read_write> O: ${array};
@group(0) @binding(6) var<uniform> p: P;
//% for (const name of ['QKV', 'K', 'V']) { if (vec) {
fn head_${name}(base: u32, j: u32) -> vec4f { return ${name}[base / 4 + j]; }
//% } else {
fn head_${name}(base: u32, j: u32) -> vec4f {
  let b = base + j * 4;
  let left = ${D} - j * 4;
  return vec4f(${name}[b], select(0.0, ${name}[b + 1], left > 1), select(0.0, ${name}[b + 2], left > 2), select(0.0, ${name}[b + 3], left > 3));
}
//% } }
//% if (!SUBGROUP) {
var<workgroup> part: array<vec4f, ${LANES}>;
fn largest(v: f32, s: u32) -> f32 {
  part[s].x = v;
  workgroupBarrier();
  for (var d = ${LANES / 2}u; d > 0; d /= 2) {
    if (s < d) { part[s].x = max(part[s].x, part[s + d].x); }
    workgroupBarrier();
  }
  let all = part[0].x;
  workgroupBarrier();
  return all;
}
fn total(v: vec4f, s: u32) -> vec4f {
  part[s] = v;
  workgroupBarrier();
  for (var d = ${LANES / 2}u; d > 0; d /= 2) {
    if (s < d) { part[s] += part[s + d]; }
    workgroupBarrier();
  }
  let all = part[0];
  workgroupBarrier();
  return all;
}
//% } else {
fn largest(v: f32, s: u32) -> f32 { return subgroupMax(v); }
fn total(v: vec4f, s: u32) -> vec4f { return subgroupAdd(v); }
//% }
@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) s: u32) {
  let slot = SLOT[w.x];
  let known = slot != 0xffffffffu;
  let end = select(0u, min(POS[w.x] + 1, p.length), known);
  let h = w.y;
  //% for (const j of list(D4)) {
  let q${j} = head_QKV(w.x * p.ld + h * ${D}, ${j}) * p.scale;
  var o${j} = vec4f();
  //% }
  var m = -1e30;
  var z = 0.0;
  let column = (h / p.group) * ${D};
  for (var j = s; j < end; j += ${LANES}) {
    let base = (slot * p.length + j) * p.width + column;
    var score = 0.0;
    //% for (const j of list(D4)) {
    score += dot(q${j}, head_K(base, ${j}));
    //% }
    let top = max(m, score);
    let shrink = exp(m - top);
    let e = exp(score - top);
    z = z * shrink + e;
    m = top;
    //% for (const j of list(D4)) {
    o${j} = o${j} * shrink + e * head_V(base, ${j});
    //% }
  }
  let top = largest(m, s);
  let share = exp(m - top);
  let sum = total(vec4f(z * share, 0, 0, 0), s).x;
  let scale = select(0.0, 1 / sum, known);
  let at = w.x * p.ldo + h * ${D};
  //% for (const j of list(D4)) {
  let r${j} = total(o${j} * share, s) * scale;
  //% }
  if (s == 0) {
    //% for (const j of list(D4)) { if (vec) {
    O[at / 4 + ${j}] = r${j};
    //% } else { for (const c of list(Math.min(4, D - j * 4))) {
    O[at + ${j * 4 + c}] = r${j}.${'xyzw'[c]};
    //% } } }
  }
}
