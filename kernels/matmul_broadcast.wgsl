// matmul_broadcast: the product of matmul.wgsl (which stands before it) for drivers that run subgroups of 8 lanes on a CPU.
// One subgroup a workgroup, TM × 32 results: a lane owns a vec4 of columns and TM accumulators; A is read a row a lane and
// spread by broadcast, K by 4. Dispatch (⌈N/32⌉, ⌈M/TM⌉).
@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) s: u32) {
  let n = w.x * 8 + s;        // this lane's vec4 of columns
  let nc = min(n, p.ldb - 1);
  let m0 = w.y * ${TM};
  //% for (let i = 0; i < TM; i++) {
  var c${i} = vec4f();
  //% }
  let steps = (p.K + 3) / 4;
  for (var k = 0u; k < steps; k++) {
    //% if (MODE === 'tn') { for (let j = 0; j < 4; j++) {
    let a${j} = select(vec4f(), A[min(k * 4 + ${j}, p.K - 1) * p.lda + min(m0 / 4 + s, p.lda - 1)], k * 4 + ${j} < p.K);
    //% } } else { for (let j = 0; j < TM / 8; j++) {
    let a${j} = A[min(m0 + ${j * 8} + s, p.M - 1) * p.lda + k];
    //% } }
    //% if (MODE === 'nt') { for (let j = 0; j < 4; j++) {
    let r${j} = select(vec4f(), B[min(n * 4 + ${j}, p.N - 1) * p.ldb + k], n * 4 + ${j} < p.N);
    //% } for (const [j, x] of [...'xyzw'].entries()) {
    let b_${j} = vec4f(r0.${x}, r1.${x}, r2.${x}, r3.${x});
    //% } } else { for (let j = 0; j < 4; j++) {
    let b_${j} = B[min(k * 4 + ${j}, p.K - 1) * p.ldb + nc];
    //% } }
    //% const spread = MODE === 'tn' ? (i, j) => `a${j}.${'xyzw'[i & 3]}, ${i >> 2}` : (i, j) => `a${i >> 3}.${'xyzw'[j]}, ${i & 7}`;
    //% for (let i = 0; i < TM; i++) {
    ${range(4, (j) => `c${i} += subgroupBroadcast(${spread(i, j)}) * b_${j}; `)}
    //% }
  }
  if (n < (p.N + 3) / 4) {
    //% if (usesBias) {
    let b0 = bias[n * p.bias];
    //% }
    //% for (let i = 0; i < TM; i++) {
    if (m0 + ${i} < p.M) { ${store(`(m0 + ${i})`, `c${i}`)} }
    //% }
  }
}
