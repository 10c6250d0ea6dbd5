// matmul_subgroup_matrix: the product of matmul.wgsl (which stands before it) on a GPU's matrix units,
// for A and B stored as f16 with sums in f32, where the adapter offers such a configuration of FM × FN × FK. Four subgroups of LANES
// lanes, 64 × 64 results, 32 × 32 a subgroup, K by 32. Dispatch (⌈N/64⌉, ⌈M/64⌉).
// Tiles pass through workgroup memory: zeros stand there for what lies outside A and B, and results leave through it to the stores.
// A zero row or column changes no other, so a row of C does not depend on the rows beside it.
// PINNED: the adapter has subgroups of several sizes and is asked for LANES lanes.
// With EMULATED, loops over workgroup memory stand for the four operations on subgroup matrices (a matrix's name is then where it
// begins), for devices without them: tests run all the rest of this text so. The operations themselves are checked by Dawn's
// compiler, and have not run on hardware yet.
//% const [TILE, DEPTH, LARGE] = [64, 32, 32];
//% const THREADS = 4 * LANES;
//% const [ROWS, COLS] = [LARGE / FM, LARGE / FN];
//% const each = (n) => [...Array(n).keys()];
// The matrices of a subgroup's results: written out, or (emulated) a loop over i and j. Drivers unroll loops of known bounds and
// then compile for minutes: emulated loops have bounds that they do not know.
//% const [rows, cols] = EMULATED ? [['i'], ['j']] : [each(ROWS), each(COLS)];
//% const upTo = (n) => EMULATED ? `min(${n}, p.M * 4096)` : n;
//% const open = EMULATED ? `for (var i = 0u; i < ${upTo(ROWS)}; i++) { for (var j = 0u; j < ${upTo(COLS)}; j++) {` : '';
//% const close = EMULATED ? '} }' : '';
// As tile of A and of B in the order of the operand's own memory: 8 numbers more a row keep its rows in different banks.
//% const [A_COLS, B_COLS] = [MODE === 'tn' ? TILE : DEPTH, MODE === 'nt' ? DEPTH : TILE];
//% const [A_STRIDE, B_STRIDE] = [A_COLS + 8, B_COLS + 8];
//% const operands = [
//%   { name: 'A', ld: 'p.lda', rows: TILE * DEPTH / A_COLS, cols: A_COLS, stride: A_STRIDE,
//%     first: MODE === 'tn' ? ['k0', 'm0'] : ['m0', 'k0'], size: MODE === 'tn' ? ['p.K', 'p.M'] : ['p.M', 'p.K'] },
//%   { name: 'B', ld: 'p.ldb', rows: TILE * DEPTH / B_COLS, cols: B_COLS, stride: B_STRIDE,
//%     first: MODE === 'nt' ? ['n0', 'k0'] : ['k0', 'n0'], size: MODE === 'nt' ? ['p.N', 'p.K'] : ['p.K', 'p.N'] },
//% ];
// Where (row, k) of A's tile and (k, column) of B's lie.
//% const inA = (row, k) => MODE === 'tn' ? `(${k}) * ${A_STRIDE} + ${row}` : `(${row}) * ${A_STRIDE} + ${k}`;
//% const inB = (k, col) => MODE === 'nt' ? `(${col}) * ${B_STRIDE} + ${k}` : `(${k}) * ${B_STRIDE} + ${col}`;
//% const [A_MAJOR, B_MAJOR] = [MODE === 'tn' ? 'col_major' : 'row_major', MODE === 'nt' ? 'col_major' : 'row_major'];
//% for (const { name, rows, stride } of operands) {
var<workgroup> ${name}s: array<f16, ${rows * stride}>;
//% }
var<workgroup> Cs: array<f32, ${4 * FM * FN}>; // a matrix of each subgroup
//% if (EMULATED) {
// Where WGSL says that element (row, col) of a matrix lies that is loaded so.
//% const inMatrix = (major, stride, row, col) => major === 'col_major' ? `${col} * ${stride} + ${row}` : `${row} * ${stride} + ${col}`;
//% const HELD = FM * FN / LANES;
var<private> held: array<f32, ${ROWS * COLS * HELD}>; // this lane's part of each sum
fn multiply(which: u32, lane: u32, a: u32, b: u32) {
  for (var s = 0u; s < ${upTo(HELD)}; s++) {
    let row = (s * ${LANES} + lane) / ${FN};
    let col = (s * ${LANES} + lane) % ${FN};
    var sum = held[which * ${HELD} + s];
    for (var k = 0u; k < ${upTo(FK)}; k++) { sum += f32(As[a + ${inMatrix(A_MAJOR, A_STRIDE, 'row', 'k')}]) * f32(Bs[b + ${inMatrix(B_MAJOR, B_STRIDE, 'k', 'col')}]); }
    held[which * ${HELD} + s] = sum;
  }
}
fn put(which: u32, lane: u32, at: u32) {
  for (var s = 0u; s < ${upTo(HELD)}; s++) { Cs[at + s * ${LANES} + lane] = held[which * ${HELD} + s]; }
}
//% }
//% const load = (side, at) => EMULATED ? at : side === 'left'
//%   ? `subgroupMatrixLoad<subgroup_matrix_left<f16, ${FK}, ${FM}>, ${A_MAJOR}>(&As, ${at}, ${A_STRIDE}u)`
//%   : `subgroupMatrixLoad<subgroup_matrix_right<f16, ${FN}, ${FK}>, ${B_MAJOR}>(&Bs, ${at}, ${B_STRIDE}u)`;
@compute @workgroup_size(${THREADS}) ${PINNED ? `@subgroup_size(${LANES})` : ''}
//% if (EMULATED) {
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) t: u32) {
  let own = t / ${LANES};
  let lane = t % ${LANES};
//% } else {
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) t: u32, @builtin(subgroup_id) own: u32) {
//% }
  let m0 = w.y * ${TILE};
  let n0 = w.x * ${TILE};
  // The subgroup's quarter of the tile.
  let row0 = own / 2 % 2 * ${LARGE}; // % 2: compilers see a range, and from it how loads are aligned
  let col0 = own % 2 * ${LARGE};
  //% if (!EMULATED) {
  //% for (const i of each(ROWS)) for (const j of each(COLS)) {
  var c${i}_${j} = subgroup_matrix_result<f32, ${FN}, ${FM}>();
  //% }
  //% }
  for (var k0 = 0u; k0 < p.K; k0 += ${DEPTH}) {
    //% for (const { name, ld, rows, cols, stride, first, size } of operands) {
    for (var e = t; e < ${upTo(rows * cols / 4)}; e += ${THREADS}) {
      let row = ${first[0]} + e / ${cols / 4};
      let col = ${first[1]} / 4 + e % ${cols / 4};
      var v = vec4f();
      if (row < ${size[0]} && col < (${size[1]} + 3) / 4) { v = ${name}[row * ${ld} + col]; }
      let at = e / ${cols / 4} * ${stride} + e % ${cols / 4} * 4;
      ${name}s[at] = f16(v.x); ${name}s[at + 1] = f16(v.y); ${name}s[at + 2] = f16(v.z); ${name}s[at + 3] = f16(v.w);
    }
    //% }
    workgroupBarrier();
    //% for (const k of EMULATED ? ['k'] : each(DEPTH / FK).map((step) => step * FK)) { // written out, compilers see how loads are aligned
    ${EMULATED ? `for (var k = 0u; k < ${upTo(DEPTH)}; k += ${FK}) {` : '{'}
      ${open}
      //% for (const i of rows) {
      let a${i} = ${load('left', inA(`row0 + ${i} * ${FM}`, k))};
      //% }
      //% for (const j of cols) {
      let b${j} = ${load('right', inB(k, `col0 + ${j} * ${FN}`))};
      //% }
      //% for (const i of rows) for (const j of cols) {
      //% if (EMULATED) {
      multiply(${i} * ${COLS} + ${j}, lane, a${i}, b${j});
      //% } else {
      c${i}_${j} = subgroupMatrixMultiplyAccumulate(a${i}, b${j}, c${i}_${j});
      //% }
      //% }
      ${close}
    }
    //% }
    workgroupBarrier();
  }
  ${open}
  //% for (const i of rows) for (const j of cols) {
  //% if (EMULATED) {
  put(${i} * ${COLS} + ${j}, lane, own * ${FM * FN});
  //% } else {
  subgroupMatrixStore<row_major>(&Cs, own * ${FM * FN}, c${i}_${j}, ${FN}u);
  //% }
  workgroupBarrier();
  for (var e = t; e < ${upTo(FM * FN)}; e += ${THREADS}) {
    let whose = e / ${FM * FN / 4};
    let row = m0 + whose / 2 * ${LARGE} + ${i} * ${FM} + e % ${FM * FN / 4} / ${FN / 4};
    let n = (n0 + whose % 2 * ${LARGE} + ${j} * ${FN}) / 4 + e % ${FN / 4};
    if (row < p.M && n < (p.N + 3) / 4) {
      //% if (usesBias) {
      let b0 = bias[n * p.bias];
      //% }
      let c = vec4f(Cs[e * 4], Cs[e * 4 + 1], Cs[e * 4 + 2], Cs[e * 4 + 3]);
      ${store('row', 'c')}
    }
  }
  workgroupBarrier();
  //% }
  ${close}
}
