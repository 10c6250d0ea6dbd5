// attention: causal attention over packed rows, o_t = Σ_{j ≤ t} softmax_j(q_t·k_j·scale) v_j, never across rows.
// QKV [N, …] holds query heads (head h at column h·D), key heads (from KOFF) and value heads (from VOFF); GROUP query heads
// share a key head (heads.wgsl, in front, reads them; QKV begins at its number qkv0; attention_bindings.wgsl binds all). TILE [T,4] =
// (first token of the row, its length, first query of the tile, sharing), unused tiles have length 0 (attention_bindings.wgsl tells of sharing). O [N, H·D]; L [N,H] keeps the log-sum-exp for the gradient.
// For subgroups of LANES, 8 or 16, on a CPU; GPUs take attention_split.wgsl. Dispatch (T, H): lane = query, QUERIES of them a lane; keys are taken
// 8 at a time from the row's start and spread over the lanes, so the order of summation depends on the place in the row alone.
const LOWEST = -1e30;

@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) s: u32) {
  let tile = TILE[w.x];
  let row = tile.x;
  let length = tile.y;
  if (length == 0) { return; }
  let last = min(length, tile.z + ${LANES * QUERIES}) - 1; // the tile's last query
  let h = w.y;
  let kcol = p.koff + (h / p.group) * ${D};
  let vcol = p.voff + (h / p.group) * ${D};
  //% for (const q of list(QUERIES)) {
  let t${q} = tile.z + ${q * LANES} + s;
  let qb${q} = (row + min(t${q}, length - 1)) * p.ld + p.qkv0 + h * ${D};
  //% for (const j of list(D4)) {
  let q${q}_${j} = head_QKV(qb${q}, ${j}) * p.scale;
  var o${q}_${j} = vec4f();
  //% }
  var m${q} = LOWEST;
  var z${q} = 0.0;
  //% }
  for (var j0 = 0u; j0 <= last; j0 += 8) {
    let base = place(tile, min(j0 + s % 8, length - 1)) * p.ld + p.qkv0;
    ${spreadHeads('k', 'QKV', 'base + kcol')}
    ${spreadHeads('v', 'QKV', 'base + vcol')}
    //% for (const q of list(QUERIES)) { for (const x of list(8)) {
    var s${q}_${x} = 0.0;
    //% } }
    //% for (const j of list(D4)) { for (const x of list(8)) {
    { let kk = ${ofRow('k', j, x)}; ${list(QUERIES).map((q) => `s${q}_${x} += dot(q${q}_${j}, kk);`).join(' ')} }
    //% } }
    //% for (const q of list(QUERIES)) {
    //% for (const x of list(8)) {
    s${q}_${x} = select(LOWEST, s${q}_${x}, j0 + ${x} <= t${q});
    //% }
    let top${q} = max(m${q}, ${list(8).map((x) => `s${q}_${x}`).reduce((a, b) => `max(${a}, ${b})`)});
    let shrink${q} = exp(m${q} - top${q});
    //% for (const x of list(8)) {
    let p${q}_${x} = exp(s${q}_${x} - top${q});
    //% }
    z${q} = z${q} * shrink${q} + ${list(8).map((x) => `p${q}_${x}`).join(' + ')};
    m${q} = top${q};
    //% }
    //% for (const j of list(D4)) {
    //% for (const q of list(QUERIES)) {
    o${q}_${j} *= shrink${q};
    //% }
    //% for (const x of list(8)) {
    { let vv = ${ofRow('v', j, x)}; ${list(QUERIES).map((q) => `o${q}_${j} += p${q}_${x} * vv;`).join(' ')} }
    //% } }
  }
  //% for (const q of list(QUERIES)) {
  let scale${q} = 1 / z${q};
  ${storeHead('O', `(row + t${q}) * p.ldo + h * ${D}`, (j) => `(o${q}_${j} * scale${q})`, `t${q} < length`)}
  if (t${q} < length) { L[(row + t${q}) * p.H + h] = m${q} + log(z${q}); }
  //% }
}
