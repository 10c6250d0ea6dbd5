// attention_decode: one query a row against the row's cache: o = Σ_{j ≤ position} softmax_j(q·k_j·scale) v_j.
// QKV [A, …] holds the queries; K, V [slots, key heads, LENGTH, D], buffers or textures: a head's keys lie end to end; SLOT, POS [A];
// O [A, H·D]. Rows without a slot give zeros.
// Dispatch (⌈H / HEADS⌉, A) with reduction.wgsl and heads.wgsl in front, LANES lanes a head and HEADS = WG / LANES heads a workgroup: on a CPU a
// subgroup or half of one a head, on a GPU a workgroup. Keys are taken LANES at a time: a lane takes the score of one
// key, then each lane adds up its own vec4s of the values, KEYS keys at once, with weights that come from the other lanes. So the
// order of summation depends on the position alone, not on the rows beside it, and no lane of a GPU holds a whole head.
//% const part = Math.min(2 ** Math.ceil(Math.log2(D4)), LANES); // lanes that share a key's values
//% const OWN = Math.ceil(D4 / part), KEYS = LANES / part, HEADS = WG / LANES;
//% const fromLane = (name, x) => (HEADS > 1 ? `select(subgroupBroadcast(${name}, ${x + 8}), subgroupBroadcast(${name}, ${x}), s < 8)` : `subgroupBroadcast(${name}, ${x})`);
struct P { H: u32, ld: u32, ldo: u32, length: u32, group: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> SLOT: array<u32>;
@group(0) @binding(1) var<storage, read> POS: array<u32>;
${reads(2, 'QKV')}
${reads(3, 'K')}
${reads(4, 'V')}
@group(0) @binding(5) var<storage, read_write> O: ${array};
@group(0) @binding(6) var<uniform> p: P;
${heads('QKV', 'K', 'V')}
//% if (!CPU_LANES) {
var<workgroup> query: array<vec4f, ${D4}>;
var<workgroup> weights: array<f32, ${LANES}>;
//% if (KEYS > 1) {
var<workgroup> parts: array<vec4f, ${LANES}>;
//% } }
const LOWEST = -1e30;

@compute @workgroup_size(${WG})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) s: u32) {
  let slot = SLOT[w.y];
  let known = slot != 0xffffffffu;
  let end = select(0u, min(POS[w.y] + 1, p.length), known);
  let lane = s % ${LANES};
  let head = w.x * ${HEADS} + s / ${LANES};
  let h = ${HEADS > 1 ? 'min(head, p.H - 1)' : 'head'};
  let first = select(0u, (slot * (p.H / p.group) + h / p.group) * p.length, known);
  //% if (CPU_LANES) { for (let j = 0; j < D4; j += LANES) {
  let mine${j} = head_QKV(w.y * p.ld + h * ${D}, min(${j} + lane, ${D4 - 1})) * p.scale; // a lane loads one, for all
  //% for (let i = j; i < Math.min(D4, j + LANES); i++) {
  let q${i} = ${fromLane(`mine${j}`, i - j)};
  //% } } } else {
  for (var j = lane; j < ${D4}; j += ${LANES}) { query[j] = head_QKV(w.y * p.ld + h * ${D}, j) * p.scale; }
  workgroupBarrier();
  //% }
  //% for (const i of list(OWN)) {
  let own${i} = min(lane % ${part} + ${i * part}, ${D4 - 1});
  var o${i} = vec4f();
  //% }
  var m = LOWEST;
  var z = 0.0;
  for (var j0 = 0u; j0 < end; j0 += ${LANES}) {
    let base = (first + min(j0 + lane, end - 1)) * ${D};
    var score = 0.0;
    //% for (const j of list(D4)) {
    score += dot(${CPU_LANES ? `q${j}` : `query[${j}]`}, head_K(base, ${j}));
    //% }
    score = select(LOWEST, score, j0 + lane < end);
    let top = max(m, max1(score, s));
    let shrink = exp(m - top);
    let weight = select(0.0, exp(score - top), j0 + lane < end);
    z = z * shrink + weight;
    m = top;
    //% for (const i of list(OWN)) {
    o${i} *= shrink;
    //% }
    //% if (CPU_LANES) { for (let x = 0; x < LANES; x += KEYS) {
    if (j0 + ${x} < end) {
      let share = ${list(KEYS).slice(1).reduce((sum, g) => `select(${sum}, ${fromLane('weight', x + g)}, lane >= ${g * part})`, fromLane('weight', x))};
      let at = (first + min(j0 + ${x} + lane / ${part}, end - 1)) * ${D};
      //% for (const i of list(OWN)) {
      o${i} += share * head_V(at, own${i});
      //% }
    }
    //% } } else {
    weights[lane] = weight;
    workgroupBarrier();
    let keys = min(${LANES}u, end - j0);
    for (var x = 0u; x < keys; x += ${KEYS}) {
      let key = x + lane / ${part};
      let share = weights[key];
      let at = (first + min(j0 + key, end - 1)) * ${D};
      //% for (const i of list(OWN)) {
      o${i} += share * head_V(at, own${i});
      //% }
    }
    workgroupBarrier();
    //% }
  }
  let mass = sum(z, s);
  let scale = select(0.0, 1 / mass, end > 0);
  //% if (CPU_LANES) { for (let d = part; d < LANES; d *= 2) {
  o0 += subgroupShuffleXor(o0, ${d});
  //% } } else if (KEYS > 1) {
  parts[lane] = o0;
  workgroupBarrier();
  o0 = vec4f();
  for (var g = lane % ${part}; g < ${LANES}; g += ${part}) { o0 += parts[g]; }
  //% }
  //% for (const i of list(OWN)) {
  if (head < p.H && lane < ${part} && lane + ${i * part} < ${D4}) {
    let at = w.y * p.ldo + h * ${D} + (lane + ${i * part}) * 4;
    let o = o${i} * scale;
    //% if (vec) {
    O[at / 4] = o;
    //% } else {
    let left = ${D} - (lane + ${i * part}) * 4;
    O[at] = o.x;
    if (left > 1) { O[at + 1] = o.y; }
    if (left > 2) { O[at + 2] = o.z; }
    if (left > 3) { O[at + 3] = o.w; }
    //% }
  }
  //% }
}
