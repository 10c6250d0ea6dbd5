// attention_split_grad_kv: attention_grad_kv.wgsl for GPUs, whose formulas these are, with heads split over lanes as in
// attention_split.wgsl: here a group of lanes has QUERIES keys, and rows of queries are staged from the workgroup's first key on.
// Dispatch (T · PARTS, key heads), LANES lanes.
var<workgroup> Qs: array<vec4f, ${KEYS * ROW}>;
var<workgroup> Gs: array<vec4f, ${KEYS * ROW}>;
var<workgroup> Ls: array<vec2f, ${KEYS}>;
@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) s: u32) {
  ${begin}
  let end = length + followers(tile);
  let g = s % ${GROUP};
  let key = first + s / ${GROUP} * ${QUERIES} + ${lanes('u32', (q) => `${q}u`)};
  let token = row + min(key, ${lanes('u32', () => 'length - 1')});
  let kcol = p.koff + w.y * ${D};
  let vcol = p.voff + w.y * ${D};
  //% for (const q of list(QUERIES)) for (const i of list(OWN)) {
  let k${q}_${i} = ${own('QKV', `p.qkv0 + ${at('token', q)} * p.ld + kcol`, i)} * p.scale;
  let v${q}_${i} = ${own('QKV', `p.qkv0 + ${at('token', q)} * p.ld + vcol`, i)};
  var dk${q}_${i} = vec4f();
  var dv${q}_${i} = vec4f();
  //% }
  for (var h = w.y * p.group; h < (w.y + 1) * p.group; h++) {
    let qcol = p.qkv0 + h * ${D};
    let gcol = p.do0 + h * ${D};
    for (var i0 = first; i0 < end; i0 += ${KEYS}) {
      let token_h = (row + min(i0 + s, end - 1)) * p.H + h;
      let ld = vec2f(L[token_h], DELTA[token_h]);
      ${stage('i0', [['Qs', 'QKV', 'p.ld', 'qcol'], ['Gs', 'DO', 'p.ldo', 'gcol']], { place: (i) => `row + ${i}`, end: 'end', more: `if (s < ${KEYS}) { Ls[s] = ld; }` })}
      for (var b = 0u; b < ${KEYS / AHEAD}; b++) {
        let x0 = b * ${AHEAD};
        if (i0 + x0 >= end) { break; }
        //% for (const x of list(AHEAD)) {
        var s${x} = ${vecq}();
        var e${x} = ${vecq}();
        //% for (const i of list(OWN)) {
        let q${x}_${i} = Qs[x0 * ${ROW} + g + ${x * ROW + i * GROUP}];
        let g${x}_${i} = Gs[x0 * ${ROW} + g + ${x * ROW + i * GROUP}];
        //% }
        //% for (const q of list(QUERIES)) {
        ${at(`s${x}`, q)} = ${dots(list(OWN).map((i) => [`k${q}_${i}`, `q${x}_${i}`]))};
        ${at(`e${x}`, q)} = ${dots(list(OWN).map((i) => [`v${q}_${i}`, `g${x}_${i}`]))};
        //% } }
        ${sums(list(AHEAD).flatMap((x) => [`s${x}`, `e${x}`]))}
        //% for (const x of list(AHEAD)) {
        let l${x} = Ls[x0 + ${x}];
        let query${x} = i0 + x0 + ${x};
        let p${x} = select(${vecq}(), exp(min(s${x} - l${x}.x, ${vecq}())), ${lanes('u32', () => `select(0u, query${x} + 1, query${x} < end)`)} > key);
        let w${x} = p${x} * (e${x} - l${x}.y);
        //% for (const i of list(OWN)) for (const q of list(QUERIES)) {
        dv${q}_${i} = fma(vec4f(${at(`p${x}`, q)}), g${x}_${i}, dv${q}_${i});
        dk${q}_${i} = fma(vec4f(${at(`w${x}`, q)}), q${x}_${i}, dk${q}_${i});
        //% } }
      }
    }
  }
  //% for (const q of list(QUERIES)) {
  if (${at('key', q)} < length) {
    let kv = ${at('token', q)} * p.ld;
    //% for (const i of list(OWN)) {
    ${store('DQKV', '(kv + kcol)', i, `dk${q}_${i} * p.scale`)}
    ${store('DQKV', '(kv + vcol)', i, `dv${q}_${i}`)}
    //% }
  }
  //% }
}
