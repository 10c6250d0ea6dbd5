// matmul_broadcast: the product of matmul.wgsl (which stands before it) for drivers that run subgroups of CPU_LANES, 8 or 16, on a CPU.
// One subgroup a workgroup, TM × 4 · CPU_LANES results: a lane owns a vec4 of columns and TM accumulators; A is read a row a lane and
// spread by broadcast, K by 4. A and B are read from storage textures that hold a copy of the buffers (src/gpu/mirror.ts): such a
// driver loads a texel of a texture in half the time that four numbers of a buffer take it. A matrix lies there in panels of 2^p.a
// (2^p.b) columns of texels, a layer each; or, with A_WIDTH (B_WIDTH) texels in a row of the texture, texel after texel from p.a (p.b) on.
// DEPTH vec4s of K a turn of the loop (every accumulator is blended with the loop's mask once a turn).
// EXACT: K is a multiple of 4 · DEPTH and, in nt, N one of 4; otherwise what lies beyond counts as zero.
// Dispatch (⌈N / (4 · CPU_LANES)⌉, ⌈M/TM⌉).
//% const operand = (X, x, width) => ({
//%   // K goes down the rows, of which a lane reads one column of texels.
//%   column: (at) => (width ? `let ${x}_first = p.${x} + ${at};` : `let ${x}_first = ${at} & ((1u << p.${x}) - 1); let ${x}_panel = ${at} >> p.${x};`),
//%   down: (row) => (width ? `${x}_at(${x}_first + ${row} * p.ld${x})` : `textureLoad(${X}, vec2u(${x}_first, ${row}), ${x}_panel)`),
//%   // K goes along the rows, of which a lane reads some.
//%   row: (at) => (width ? `p.${x} + ${at} * p.ld${x}` : at),
//%   turn: () => (width ? '' : `let ${x}_first = k & ((1u << p.${x}) - 1); let ${x}_panel = k >> p.${x};`),
//%   along: (row, h) => (width ? `${x}_at(${row} + k + ${h})` : `textureLoad(${X}, vec2u(${x}_first + ${h}, ${row}), ${x}_panel)`),
//% });
//% const a = operand('A', 'a', A_WIDTH), b = operand('B', 'b', B_WIDTH);
//% for (const [X, x, width] of [['A', 'a', A_WIDTH], ['B', 'b', B_WIDTH]]) { if (width) {
fn ${x}_at(i: u32) -> vec4f { return textureLoad(${X}, vec2u(i & ${width - 1}, i >> ${Math.log2(width)})); }
//% } }
//% const BLOCK = Math.min(16, TM), PART = 4; // rows of a turn of the two loops that store
//% const row = (j) => (EXACT ? `(k * 4 + ${j})` : `min(k * 4 + ${j}, p.K - 1)`); // of K
//% const within = (value, inside) => (EXACT ? value : `select(vec4f(), ${value}, ${inside})`);
@compute @workgroup_size(${CPU_LANES})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) s: u32) {
  let n = w.x * ${CPU_LANES} + s; // this lane's vec4 of columns
  let nc = min(n, p.ldb - 1);
  let m0 = w.y * ${TM};
  //% for (let i = 0; i < TM; i++) {
  var c${i} = vec4f();
  //% }
  //% if (MODE === 'tn') {
  ${a.column(`min(m0 / 4 + s % ${TM / 4}, p.lda - 1)`)}
  //% } else { for (let j = 0; j < Math.ceil(TM / CPU_LANES); j++) {
  let a_row${j} = ${a.row(`min(m0 + ${j * CPU_LANES} + s, p.M - 1)`)};
  //% } }
  //% if (MODE === 'nt') { for (let j = 0; j < 4; j++) {
  let b_row${j} = ${b.row(`min(n * 4 + ${j}, p.N - 1)`)};
  //% } } else {
  ${b.column('nc')}
  //% }
  //% if (COLUMNS) {
  var g = vec4f();
  //% }
  let steps = (p.K + 3) / 4;
  for (var k = 0u; k < steps; k += ${DEPTH}) {
    ${MODE === 'tn' ? '' : a.turn()} ${MODE === 'nt' ? b.turn() : ''}
    //% for (let h = 0; h < DEPTH; h++) {
    //% if (MODE === 'tn') { for (let j = 4 * h; j < 4 * h + 4; j++) {
    let a${j} = ${within(a.down(row(j)), `k * 4 + ${j} < p.K`)};
    //% } } else { for (let j = 0; j < Math.ceil(TM / CPU_LANES); j++) {
    let a${h}_${j} = ${a.along(`a_row${j}`, h)};
    //% } }
    //% if (MODE === 'nt') { for (let j = 0; j < 4; j++) {
    let r${h}_${j} = ${within(b.along(`b_row${j}`, h), `n * 4 + ${j} < p.N`)};
    //% } for (const [j, x] of [...'xyzw'].entries()) {
    let b${4 * h + j} = vec4f(r${h}_0.${x}, r${h}_1.${x}, r${h}_2.${x}, r${h}_3.${x});
    //% } } else { for (let j = 4 * h; j < 4 * h + 4; j++) {
    let b${j} = ${b.down(row(j))};
    //% } } }
    //% if (COLUMNS) {
    if (w.y == 0) { ${range(4 * DEPTH, (j) => `g += ${within(`b${j}`, `k * 4 + ${j} < p.K`)}; `)}}
    //% }
    //% const spread = (i, j) => (MODE === 'tn' ? `a${j}.${'xyzw'[i & 3]}, ${i >> 2}` : `a${j >> 2}_${Math.floor(i / CPU_LANES)}.${'xyzw'[j & 3]}, ${i % CPU_LANES}`);
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
    // A stored vec4 becomes much code, a lane at a time: with PART rows of code in place of TM the kernel takes a third of the time to
    // compile. Where the loops begin and end is not constant, or the driver would unroll them.
    //% const ofTurn = (name, first, count, step, bit) => (count === 1 ? `${name}${first}`
    //%   : `select(${ofTurn(name, first, count / 2, step, bit)}, ${ofTurn(name, first + (count / 2) * step, count / 2, step, bit)}, ${bit}${(count / 2) * step})`);
    //% const bits = (bit, of, count, step) => range(Math.log2(count), (i) => `let ${bit}${step << i} = (${of} & ${step << i}) != 0; `);
    let end = min(m0 + ${TM}, p.M);
    for (var block = m0; block < end; block += ${BLOCK}) {
      ${bits('far', 'block', TM / BLOCK, BLOCK)}
      //% for (let r = 0; r < BLOCK; r++) {
      let d${r} = ${ofTurn('c', r, TM / BLOCK, BLOCK, 'far')};
      //% }
      for (var row = block; row < min(block + ${BLOCK}, p.M); row += ${PART}) {
        ${bits('near', 'row', BLOCK / PART, PART)}
        //% for (let r = 0; r < PART; r++) {
        if (row + ${r} < p.M) { let value = ${ofTurn('d', r, BLOCK / PART, PART, 'near')}; ${store(`(row + ${r})`, 'value')} }
        //% }
      }
    }
  }
}
