// matmul_tiled: the product of matmul.wgsl (which stands before it) for GPUs. A workgroup makes TM × TN results through
// workgroup memory, K by 16; a thread makes RT × 4·CT of them. Dispatch (⌈N/TN⌉, ⌈M/TM⌉, parts); parts is 1 but for
// STORE part, where workgroup z sums p.chunk steps of K and matmul_split.wgsl adds the parts.
// Each result is one chain of fma over k = 0, 1, 2, … whatever the tile, so the tile may follow the shape.
// A step of K takes RT/4 + CT vec4 reads of workgroup memory for 4·RT·CT fma of scalars a thread:
//   128×128 (8×8 a thread) 4 reads, 64 fma;  128×64, 64×64 (8×4) 3 reads, 32 fma;  32×64, 16×64 (4×4) 2 reads, 16 fma.
// Reads have no bank conflicts (rows are one address for the threads of a column group, columns are neighbours); storing a
// transposed 4 × 4 block has one of two ways, once in 16 steps. A thread stores whole vec4s: WGSL lets the store of one
// component touch all four, so two threads must not share one.
// Rows and columns past the edge are clamped once, before the loop, and not stored; only the last step looks at K's end.
//% const NT = (TM / RT) * (TN / 4 / CT), NX = TN / 4 / CT;
//% const rows = [...Array(RT).keys()], cols = [...Array(CT).keys()], four = [0, 1, 2, 3];
fn a_at(i: u32) -> vec4f { return A[i]; }
fn b_at(i: u32) -> vec4f { return B[i]; }
var<workgroup> As: array<array<vec4f, ${TM / 4 + 1}>, 16>; // [k][vec4 of rows]
var<workgroup> Bs: array<array<vec4f, ${TN / 4 + 1}>, 16>; // [k][vec4 of columns]
@compute @workgroup_size(${NT})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) t: u32) {
  let tx = t % ${NX};
  let ty = t / ${NX};
  let m0 = w.y * ${TM};
  let n0 = w.x * ${TN};
  //% for (const i of rows) { for (const j of cols) {
  var c${i}_${j} = vec4f();
  //% } }
  //% if (COLUMNS) {
  var g = vec4f(); // of this thread's vec4 of columns, in the first row of workgroups
  let sums = w.y == 0 && t < ${TN / 4};
  //% }
  //% if (STORE === 'part') {
  let first = w.z * p.chunk;
  let end = min(p.K, first + p.chunk);
  //% } else {
  let first = 0u;
  let end = p.K;
  //% }
  //% if (MODE !== 'tn') {
  let ar = t / 4; // this thread's 4 × 4 block of A: rows m0 + 4·ar + (0…3), columns 4·(t % 4) + (0…3) of the step
  //% for (const i of four) {
  let a_row${i} = min(m0 + ar * 4 + ${i}, p.M - 1) * p.lda;
  //% } }
  //% if (MODE === 'nt') {
  let bt = (t + ${NT - (TM % NT)}) % ${NT}; // threads that have no block of A come first
  let br = n0 + (bt / 4) * 4;
  //% for (const i of four) {
  let b_row${i} = min(br + ${i}, p.N - 1) * p.ldb;
  //% } }
  for (var k0 = first; k0 < end; k0 += 16) {
    let whole = k0 + 16 <= end;
    //% if (MODE === 'tn') { for (let e = 0; e < TM * 4; e += NT) {
    {
      let k = (t + ${e}) / ${TM / 4};
      let r = (t + ${e}) % ${TM / 4};
      var v = vec4f();
      if (whole || k0 + k < end) { v = a_at((k0 + k) * p.lda + min(m0 / 4 + r, p.lda - 1)); }
      As[k][r] = v;
    }
    //% } } else {
    if (t < ${TM}) {
      let kq = t % 4;
      //% for (const i of four) {
      var v${i} = vec4f();
      //% }
      if (whole || k0 / 4 + kq < (p.K + 3) / 4) {
        //% for (const i of four) {
        v${i} = a_at(a_row${i} + k0 / 4 + kq);
        //% }
      }
      //% for (const i of four) {
      As[kq * 4 + ${i}][ar] = vec4f(${four.map((j) => `v${j}.${'xyzw'[i]}`).join(', ')});
      //% }
    }
    //% }
    //% if (MODE === 'nt') {
    if (bt < ${TN}) {
      let kq = bt % 4;
      //% for (const i of four) {
      var v${i} = vec4f();
      //% }
      if (whole || k0 / 4 + kq < (p.K + 3) / 4) {
        //% for (const i of four) {
        v${i} = select(vec4f(), b_at(b_row${i} + k0 / 4 + kq), br + ${i} < p.N); // C's padding comes out zero
        //% }
      }
      //% for (const i of four) {
      Bs[kq * 4 + ${i}][bt / 4] = vec4f(${four.map((j) => `v${j}.${'xyzw'[i]}`).join(', ')});
      //% }
    }
    //% } else { for (let e = 0; e < TN * 4; e += NT) {
    {
      let k = (t + ${e}) / ${TN / 4};
      let r = (t + ${e}) % ${TN / 4};
      var v = vec4f();
      if (whole || k0 + k < end) { v = b_at((k0 + k) * p.ldb + min(n0 / 4 + r, p.ldb - 1)); }
      Bs[k][r] = v;
    }
    //% } }
    workgroupBarrier();
    //% if (COLUMNS) {
    if (sums) { for (var k = 0u; k < 16; k++) { g += Bs[k][t]; } }
    //% }
    for (var k = 0u; k < 16; k++) {
      //% for (let i = 0; i < RT / 4; i++) {
      let a${i} = As[k][ty * ${RT / 4} + ${i}];
      //% } for (const j of cols) {
      let b${j} = Bs[k][tx + ${j * NX}];
      //% } for (const i of rows) { for (const j of cols) {
      c${i}_${j} = fma(vec4f(a${i >> 2}.${'xyzw'[i & 3]}), b${j}, c${i}_${j});
      //% } }
    }
    workgroupBarrier();
  }
  //% if (COLUMNS) {
  let column = w.x * ${TN / 4} + t;
  if (sums && column < (p.N + 3) / 4) { ${STORE === 'part' ? 'C[(w.z * p.rows + p.M) * p.ldc + column] = g;' : 'G[column] += g;'} }
  //% }
  let r0 = m0 + ty * ${RT};
  //% for (const j of cols) {
  {
    let n = w.x * ${TN / 4} + tx + ${j * NX};
    if (n < (p.N + 3) / 4) {
      //% if (usesBias) {
      let b0 = bias[n * p.bias];
      //% } for (const i of rows) {
      if (r0 + ${i} < p.M) { ${store(`(r0 + ${i})`, `c${i}_${j}`)} }
      //% }
    }
  }
  //% }
}
