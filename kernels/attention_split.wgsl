// attention_split: attention.wgsl for GPUs, whose tiles these are. A head's D numbers are split over the GROUP lanes beside each
// other that hold QUERIES queries together: lane g of them has the vec4s g, g + GROUP, … (OWN of them) of each query and of its result in
// registers, so that a vec4 of keys or values read from workgroup memory serves QUERIES queries, and no head is too large for the registers.
// Keys and values are staged KEYS rows at a time from the row's start and taken 8 at a time, so the order of summation depends on the
// place in the row alone. split_heads.wgsl, in front, adds up what the lanes of a group have.
// Dispatch (T · PARTS, H), LANES lanes: a tile's 64 queries are taken by PARTS workgroups.
var<workgroup> Ks: array<vec4f, ${KEYS * ROW}>;
var<workgroup> Vs: array<vec4f, ${KEYS * ROW}>;
const LOWEST = -1e30;

@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) s: u32) {
  ${begin}
  let last = min(length, first + ${SHARE}) - 1; // the workgroup's last query
  let h = w.y;
  let g = s % ${GROUP};
  let kcol = p.qkv0 + p.koff + (h / p.group) * ${D};
  let vcol = p.qkv0 + p.voff + (h / p.group) * ${D};
  let t = first + s / ${GROUP} * ${QUERIES} + ${lanes('u32', (q) => `${q}u`)};
  //% for (const q of list(QUERIES)) {
  let qb${q} = p.qkv0 + (row + min(${at('t', q)}, length - 1)) * p.ld + h * ${D};
  //% for (const i of list(OWN)) {
  let q${q}_${i} = ${own('QKV', `qb${q}`, i)} * p.scale;
  var o${q}_${i} = vec4f();
  //% } }
  var m = ${vecq}(LOWEST);
  var z = ${vecq}();
  for (var j0 = 0u; j0 <= last; j0 += ${KEYS}) {
    ${stage('j0', [['Ks', 'QKV', 'p.ld', 'kcol'], ['Vs', 'QKV', 'p.ld', 'vcol']])}
    for (var b = 0u; b < ${KEYS / 8}; b++) { // bounds that Dawn's compiler can tell need no checks of Ks and Vs
      let x0 = b * 8;
      if (j0 + x0 > last) { break; }
      //% for (const x of list(8)) {
      var s${x} = ${vecq}();
      {
        //% for (const i of list(OWN)) {
        let k${i} = Ks[x0 * ${ROW} + g + ${x * ROW + i * GROUP}];
        //% }
        //% for (const q of list(QUERIES)) {
        ${at(`s${x}`, q)} = ${dots(list(OWN).map((i) => [`q${q}_${i}`, `k${i}`]))};
        //% }
      }
      //% }
      ${sums(list(8).map((x) => `s${x}`))}
      if (j0 + x0 + 7 > first) { // else all of them come before the first query
        //% for (const x of list(8)) {
        s${x} = select(${vecq}(LOWEST), s${x}, ${lanes('u32', () => `j0 + x0 + ${x}`)} <= t);
        //% }
      }
      let top = max(m, ${list(8).map((x) => `s${x}`).reduce((a, b) => `max(${a}, ${b})`)});
      let shrink = exp(m - top);
      //% for (const x of list(8)) {
      s${x} = exp(s${x} - top);
      //% }
      z = z * shrink + ${list(8).map((x) => `s${x}`).join(' + ')};
      m = top;
      //% for (const q of list(QUERIES)) for (const i of list(OWN)) {
      o${q}_${i} *= ${at('shrink', q)};
      //% }
      //% for (const x of list(8)) for (const i of list(OWN)) {
      { let v = Vs[x0 * ${ROW} + g + ${x * ROW + i * GROUP}]; ${list(QUERIES).map((q) => `o${q}_${i} = fma(vec4f(${at(`s${x}`, q)}), v, o${q}_${i});`).join(' ')} }
      //% }
    }
  }
  //% for (const q of list(QUERIES)) {
  if (${at('t', q)} < length) {
    let scale = 1 / ${at('z', q)};
    let head = (row + ${at('t', q)}) * p.ldo + h * ${D};
    //% for (const i of list(OWN)) {
    ${store('O', 'head', i, `o${q}_${i} * scale`)}
    //% }
    if (g == 0) { L[(row + ${at('t', q)}) * p.H + h] = ${at('m', q)} + log(${at('z', q)}); }
  }
  //% }
}
