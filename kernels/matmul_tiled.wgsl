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
//% const list = (n) => [...Array(n).keys()];
//% const rows = list(RT), cols = list(CT), four = list(4);
// Which threads read what of a step: of A in its own order 4 × 4 blocks, which are transposed on their way, t < TM; of A and B in the order
// of K vec4s. Where B is left to the others, x holds the one or the other.
//% const others = NT - TM;
//% const apart = MODE === 'nn' && others >= 64 && (TN * 4) % others === 0;
//% const [B_FIRST, B_THREADS] = apart ? [TM, others] : [0, NT];
//% const A_COUNT = MODE === 'tn' ? (TM * 4) / NT : 4, B_COUNT = MODE === 'nt' ? 4 : (TN * 4) / B_THREADS;
//% const B_AT = apart || (MODE === 'nt' && TM + TN <= NT) ? 0 : A_COUNT;
//% const LOADS = Math.max(A_COUNT, B_AT + B_COUNT);
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
  let a_row${i} = min(m0 + ar * 4 + ${i}, p.M - 1) * p.lda + t % 4;
  //% } } else {
  let ar = t % ${TM / 4};
  let ak = t / ${TM / 4}; // and every ${NT / (TM / 4)}th row of the step after it
  let a_first = ak * p.lda + min(m0 / 4 + ar, p.lda - 1);
  //% }
  //% if (MODE === 'nt') {
  let bt = (t + ${NT - (TM % NT)}) % ${NT}; // threads that have no block of A come first
  let br = n0 + (bt / 4) * 4;
  //% for (const i of four) {
  let b_row${i} = min(br + ${i}, p.N - 1) * p.ldb + bt % 4;
  //% } } else {
  let bt = t - ${B_FIRST}u;
  let br = bt % ${TN / 4};
  let bk = bt / ${TN / 4};
  let b_first = bk * p.ldb + min(n0 / 4 + br, p.ldb - 1);
  //% }
  // What this thread has read of A and B and not yet put into workgroup memory, as it lies in the buffers: all is asked for before
  // anything is waited for.
  //% for (const i of list(LOADS)) {
  var x${i} = vec4f();
  //% }
  //% const zero = (name, inside) => `${name} = select(vec4f(), ${name}, ${inside});`;
  // Vec4s in the order of K: count rows of the step, rows apart; and 4 × 4 blocks, transposed on their way.
  //% const inOrder = (name, at, count, rows) => ({
  //%   loads: list(count).map((i) => `x${at + i} = ${name}_at(${name}_first + (K + ${i * rows}) * p.ld${name});`),
  //%   edge: list(count).map((i) => zero(`x${at + i}`, `k0 + ${name}k + ${i * rows} < end`)),
  //%   puts: list(count).map((i) => `${name.toUpperCase()}s[${name}k + ${i * rows}][${name}r] = x${at + i};`),
  //% });
  //% const inBlocks = (name, at, lane, row) => ({
  //%   loads: four.map((i) => `x${at + i} = ${name}_at(${name}_row${i} + K / 4);`),
  //%   edge: four.map((i) => zero(`x${at + i}`, `k0 / 4 + ${lane} % 4 < (p.K + 3) / 4`)),
  //%   puts: four.map((i) => `${name.toUpperCase()}s[${lane} % 4 * 4 + ${i}][${row}] = vec4f(${four.map((j) => `x${at + j}.${'xyzw'[i]}`).join(', ')});`),
  //% });
  //% const parts = [
  //%   MODE === 'tn' ? { when: '', ...inOrder('a', 0, A_COUNT, NT / (TM / 4)) } : { when: `t < ${TM}`, ...inBlocks('a', 0, 't', 'ar') },
  //%   MODE === 'nt' ? { when: TN < NT ? `bt < ${TN}` : '', ...inBlocks('b', B_AT, 'bt', 'bt / 4'),
  //%     always: four.map((i) => zero(`x${B_AT + i}`, `br + ${i} < p.N`)) } // C's padding comes out zero
  //%     : { when: B_FIRST ? `t >= ${B_FIRST}` : '', ...inOrder('b', B_AT, B_COUNT, B_THREADS / (TN / 4)) },
  //% ];
  //% const within = (when, lines) => (when ? `if (${when}) { ${lines.join(' ')} }` : lines.join(' '));
  //% const read = (at) => parts.map(({ when, loads }) => within(when, loads.map((line) => line.replaceAll('K', at)))).join('\n    ');
  //% if (PREFETCH) {
  ${read('first')}
  //% }
  for (var k0 = first; k0 < end; k0 += 16) {
    //% if (!PREFETCH) {
    ${read('k0')}
    //% }
    if (k0 + 16 > end) { // the last step: zeros behind K
      ${parts.map(({ when, edge }) => within(when, edge)).join('\n      ')}
    }
    ${parts.map(({ when, always = [], puts }) => within(when, [...always, ...puts])).join('\n    ')}
    workgroupBarrier();
    //% if (PREFETCH) {
    if (k0 + 16 < end) { // on its way while this step is computed
      ${read('(k0 + 16)')}
    }
    //% }
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
