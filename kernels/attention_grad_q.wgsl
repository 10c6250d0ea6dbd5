// attention_grad_q: gradient of the queries, and the row sums the other gradient needs. With p_j = exp(q·k_j·scale − L):
//   DELTA = do·o      dq = scale · Σ_{j ≤ t} p_j (do·v_j − DELTA) k_j
// Inputs as in attention.wgsl, DO [N, H·D]; writes the query columns of DQKV and DELTA [N,H].
// For CPUs, as attention.wgsl; GPUs take attention_split_grad_q.wgsl. Dispatch (T · QUERIES, H), LANES lanes: lane = query, keys as
// in attention.wgsl.
@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) s: u32) {
  let tile = TILE[w.x / ${QUERIES}];
  let row = tile.x;
  let length = tile.y;
  let first = tile.z + (w.x % ${QUERIES}) * ${LANES};
  if (first >= length) { return; }
  let last = min(length, first + ${LANES}) - 1;
  let h = w.y;
  let t = first + s;
  let token = row + min(t, length - 1);
  let kcol = p.koff + (h / p.group) * ${D};
  let vcol = p.voff + (h / p.group) * ${D};
  var delta = 0.0;
  //% for (const j of list(D4)) {
  let q${j} = head_QKV(p.qkv0 + token * p.ld + h * ${D}, ${j}) * p.scale;
  let g${j} = head_DO(p.do0 + token * p.ldo + h * ${D}, ${j});
  var d${j} = vec4f();
  //% }
  let vec4s = select(0u, ${D4}u, t < length); // not constant, or the driver would unroll the loop
  for (var j = 0u; j < vec4s; j++) { delta += dot(head_DO(p.do0 + token * p.ldo + h * ${D}, j), head_O(token * p.ldo + h * ${D}, j)); }
  let lse = L[token * p.H + h];
  for (var j0 = 0u; j0 <= last; j0 += 8) {
    let base = p.qkv0 + place(tile, min(j0 + s % 8, length - 1)) * p.ld;
    ${spreadHeads('k', 'QKV', 'base + kcol')}
    ${spreadHeads('v', 'QKV', 'base + vcol')}
    //% for (const x of list(8)) {
    var s${x} = 0.0;
    var e${x} = 0.0;
    //% }
    //% for (const j of list(D4)) { for (const x of list(8)) {
    s${x} += dot(q${j}, ${ofRow('k', j, x)});
    e${x} += dot(g${j}, ${ofRow('v', j, x)});
    //% } }
    //% for (const x of list(8)) {
    let w${x} = select(0.0, exp(min(s${x} - lse, 0.0)) * (e${x} - delta), j0 + ${x} <= t);
    //% }
    //% for (const j of list(D4)) { for (const x of list(8)) {
    d${j} += w${x} * ${ofRow('k', j, x)};
    //% } }
  }
  ${storeHead('DQKV', `token * p.ld + h * ${D}`, (j) => `(d${j} * p.scale)`, 't < length')}
  if (t < length) { DELTA[token * p.H + h] = delta; }
}
