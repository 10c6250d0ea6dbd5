// attention_grad_kv: gradients of keys and values, summed over the GROUP query heads that share them. With
// p_t = exp(q_t·k·scale − L_t):   dv = Σ_{t ≥ j} p_t do_t      dk = scale · Σ_{t ≥ j} p_t (do_t·v − DELTA_t) q_t
// Inputs as in attention_grad_q.wgsl; writes the key and value columns of DQKV.
// For CPUs, as attention.wgsl; GPUs take attention_split_grad_kv.wgsl. Dispatch (T · QUERIES, key heads), LANES lanes: lane = key,
// queries are taken 8 at a time from the tile's first key on, to the end of the row or of those that go on from it.
@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) s: u32) {
  let tile = TILE[w.x / ${QUERIES}];
  let row = tile.x;
  let length = tile.y;
  let first = tile.z + (w.x % ${QUERIES}) * ${LANES};
  if (first >= length) { return; }
  let end = length + followers(tile);
  let key = first + s;
  let token = row + min(key, length - 1);
  let kcol = p.koff + w.y * ${D};
  let vcol = p.voff + w.y * ${D};
  //% for (const j of list(D4)) {
  let k${j} = head_QKV(p.qkv0 + token * p.ld + kcol, ${j}) * p.scale;
  let v${j} = head_QKV(p.qkv0 + token * p.ld + vcol, ${j});
  var dk${j} = vec4f();
  var dv${j} = vec4f();
  //% }
  for (var h = w.y * p.group; h < (w.y + 1) * p.group; h++) {
    for (var i0 = first; i0 < end; i0 += 8) {
      let query = row + min(i0 + s % 8, end - 1);
      ${spreadHeads('q', 'QKV', `p.qkv0 + query * p.ld + h * ${D}`)}
      ${spreadHeads('g', 'DO', `p.do0 + query * p.ldo + h * ${D}`)}
      let ld = vec2f(L[query * p.H + h], DELTA[query * p.H + h]);
      //% for (const x of list(8)) {
      var s${x} = 0.0;
      var e${x} = 0.0;
      //% }
      //% for (const j of list(D4)) { for (const x of list(8)) {
      s${x} += dot(k${j}, ${ofRow('q', j, x)});
      e${x} += dot(v${j}, ${ofRow('g', j, x)});
      //% } }
      //% for (const x of list(8)) {
      let l${x} = subgroupBroadcast(ld, ${x});
      let p${x} = select(0.0, exp(min(s${x} - l${x}.x, 0.0)), i0 + ${x} >= key && i0 + ${x} < end);
      let w${x} = p${x} * (e${x} - l${x}.y);
      //% }
      //% for (const j of list(D4)) { for (const x of list(8)) {
      dv${j} += p${x} * ${ofRow('g', j, x)};
      dk${j} += w${x} * ${ofRow('q', j, x)};
      //% } }
    }
  }
  ${storeHead('DQKV', 'token * p.ld + kcol', (j) => `(dk${j} * p.scale)`, 'key < length')}
  ${storeHead('DQKV', 'token * p.ld + vcol', (j) => `dv${j}`, 'key < length')}
}
