// matmul_broadcast: the product of matmul.wgsl (which stands before it) for drivers that run subgroups of 8 lanes on a CPU.
// One subgroup a workgroup, TM × 32 results: a lane owns a vec4 of columns and TM accumulators; A is read a row a lane and
// spread by broadcast, K by 4. A and B are read from storage textures that hold a copy of the buffers, texel after texel, from
// texel a0 and b0 on (src/gpu/mirror.ts): such a driver loads a texel of a texture in half the time that four numbers of a
// buffer take it. DEPTH vec4s of K a turn of the loop (every accumulator is blended with the loop's mask once a turn).
// EXACT: K is a multiple of 4 · DEPTH and, in nt, N one of 4; otherwise what lies beyond counts as zero.
// Dispatch (⌈N/32⌉, ⌈M/TM⌉).
fn a_at(i: u32) -> vec4f { return textureLoad(A, vec2u(i & ${A_WIDTH - 1}, i >> ${Math.log2(A_WIDTH)})); }
fn b_at(i: u32) -> vec4f { return textureLoad(B, vec2u(i & ${B_WIDTH - 1}, i >> ${Math.log2(B_WIDTH)})); }
//% const row = (j) => (EXACT ? `(k * 4 + ${j})` : `min(k * 4 + ${j}, p.K - 1)`); // of K
//% const within = (value, inside) => (EXACT ? value : `select(vec4f(), ${value}, ${inside})`);
@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) s: u32) {
  let n = w.x * 8 + s;        // this lane's vec4 of columns
  let nc = min(n, p.ldb - 1);
  let m0 = w.y * ${TM};
  //% for (let i = 0; i < TM; i++) {
  var c${i} = vec4f();
  //% }
  //% if (MODE === 'tn') {
  let a_column = p.a0 + min(m0 / 4 + s, p.lda - 1);
  //% } else { for (let j = 0; j < TM / 8; j++) {
  let a_row${j} = p.a0 + min(m0 + ${j * 8} + s, p.M - 1) * p.lda;
  //% } }
  //% if (MODE === 'nt') { for (let j = 0; j < 4; j++) {
  let b_row${j} = p.b0 + min(n * 4 + ${j}, p.N - 1) * p.ldb;
  //% } } else {
  let b_column = p.b0 + nc;
  //% }
  //% if (COLUMNS) {
  var g = vec4f();
  //% }
  let steps = (p.K + 3) / 4;
  for (var k = 0u; k < steps; k += ${DEPTH}) {
    //% for (let h = 0; h < DEPTH; h++) {
    //% if (MODE === 'tn') { for (let j = 4 * h; j < 4 * h + 4; j++) {
    let a${j} = ${within(`a_at(a_column + ${row(j)} * p.lda)`, `k * 4 + ${j} < p.K`)};
    //% } } else { for (let j = 0; j < TM / 8; j++) {
    let a${h}_${j} = a_at(a_row${j} + k + ${h});
    //% } }
    //% if (MODE === 'nt') { for (let j = 0; j < 4; j++) {
    let r${h}_${j} = ${within(`b_at(b_row${j} + k + ${h})`, `n * 4 + ${j} < p.N`)};
    //% } for (const [j, x] of [...'xyzw'].entries()) {
    let b${4 * h + j} = vec4f(r${h}_0.${x}, r${h}_1.${x}, r${h}_2.${x}, r${h}_3.${x});
    //% } } else { for (let j = 4 * h; j < 4 * h + 4; j++) {
    let b${j} = b_at(b_column + ${row(j)} * p.ldb);
    //% } } }
    //% if (COLUMNS) {
    if (w.y == 0) { ${range(4 * DEPTH, (j) => `g += ${within(`b${j}`, `k * 4 + ${j} < p.K`)}; `)}}
    //% }
    //% const spread = (i, j) => (MODE === 'tn' ? `a${j}.${'xyzw'[i & 3]}, ${i >> 2}` : `a${j >> 2}_${i >> 3}.${'xyzw'[j & 3]}, ${i & 7}`);
    //% for (let i = 0; i < TM; i++) {
    ${range(4 * DEPTH, (j) => `c${i} += subgroupBroadcast(${spread(i, j)}) * b${j}; `)}
    //% }
  }
  if (n < (p.N + 3) / 4) {
    //% if (COLUMNS) {
    if (w.y == 0) { G[n] += g; }
    //% }
    //% if (usesBias) {
    let b0 = bias[n * p.bias];
    //% }
    //% for (let i = 0; i < TM; i++) {
    if (m0 + ${i} < p.M) { ${store(`(m0 + ${i})`, `c${i}`)} }
    //% }
  }
}
