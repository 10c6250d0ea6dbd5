// attention_split_grad_q: attention_grad_q.wgsl for GPUs, whose formulas these are, with heads split over lanes as in
// attention_split.wgsl. Dispatch (T · PARTS, H), LANES lanes. What is read of a key serves its score and the sum that it is added to.
var<workgroup> Ks: array<vec4f, ${KEYS * ROW}>;
var<workgroup> Vs: array<vec4f, ${KEYS * ROW}>;
@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) s: u32) {
  ${begin}
  let last = min(length, first + ${SHARE}) - 1;
  let h = w.y;
  let g = s % ${GROUP};
  let kcol = p.qkv0 + p.koff + (h / p.group) * ${D};
  let vcol = p.qkv0 + p.voff + (h / p.group) * ${D};
  let t = first + s / ${GROUP} * ${QUERIES} + ${lanes('u32', (q) => `${q}u`)};
  let token = row + min(t, ${lanes('u32', () => 'length - 1')});
  var delta = ${vecq}();
  //% for (const q of list(QUERIES)) {
  //% for (const i of list(OWN)) {
  let q${q}_${i} = ${own('QKV', `p.qkv0 + ${at('token', q)} * p.ld + h * ${D}`, i)} * p.scale;
  let g${q}_${i} = ${own('DO', `p.do0 + ${at('token', q)} * p.ldo + h * ${D}`, i)};
  let o${q}_${i} = ${own('O', `${at('token', q)} * p.ldo + h * ${D}`, i)};
  var d${q}_${i} = vec4f();
  //% }
  ${at('delta', q)} = ${dots(list(OWN).map((i) => [`g${q}_${i}`, `o${q}_${i}`]))}; // as do·v below: where o is v, nothing is left of their difference
  //% }
  ${sums(['delta'])}
  let lse = ${lanes('f32', (q) => `L[${at('token', q)} * p.H + h]`)};
  for (var j0 = 0u; j0 <= last; j0 += ${KEYS}) {
    ${stage('j0', [['Ks', 'QKV', 'p.ld', 'kcol'], ['Vs', 'QKV', 'p.ld', 'vcol']])}
    for (var b = 0u; b < ${KEYS / AHEAD}; b++) {
      let x0 = b * ${AHEAD};
      if (j0 + x0 > last) { break; }
      //% for (const x of list(AHEAD)) {
      var s${x} = ${vecq}();
      var e${x} = ${vecq}();
      //% for (const i of list(OWN)) {
      let k${x}_${i} = Ks[x0 * ${ROW} + g + ${x * ROW + i * GROUP}];
      let v${x}_${i} = Vs[x0 * ${ROW} + g + ${x * ROW + i * GROUP}];
      //% }
      //% for (const q of list(QUERIES)) {
      ${at(`s${x}`, q)} = ${dots(list(OWN).map((i) => [`q${q}_${i}`, `k${x}_${i}`]))};
      ${at(`e${x}`, q)} = ${dots(list(OWN).map((i) => [`g${q}_${i}`, `v${x}_${i}`]))};
      //% } }
      ${sums(list(AHEAD).flatMap((x) => [`s${x}`, `e${x}`]))}
      //% for (const x of list(AHEAD)) {
      let w${x} = select(${vecq}(), exp(min(s${x} - lse, ${vecq}())) * (e${x} - delta), ${lanes('u32', () => `j0 + x0 + ${x}`)} <= t);
      //% for (const i of list(OWN)) for (const q of list(QUERIES)) {
      d${q}_${i} = fma(vec4f(${at(`w${x}`, q)}), k${x}_${i}, d${q}_${i});
      //% } }
    }
  }
  //% for (const q of list(QUERIES)) {
  if (${at('t', q)} < length) {
    let head = ${at('token', q)} * p.ld + h * ${D};
    //% for (const i of list(OWN)) {
    ${store('DQKV', 'head', i, `d${q}_${i} * p.scale`)}
    //% }
    if (g == 0) { DELTA[${at('token', q)} * p.H + h] = ${at('delta', q)}; }
  }
  //% }
}
