// matmul: C[M,N] = op(A) · op(B), with what follows the product fused into the store.
//   MODE  nn: A[M,K] B[K,N]   nt: A[M,K] B[N,K]   tn: A[K,M] B[K,N]
//   STORE plain: C = P + bias          residual: C = P + bias + R      add: C += P
//         gelu:  U = P + bias, C = gelu(U)                             gelu_grad: C = P · gelu'(U)
//         gelu_more: U += P, C = gelu(U)      gelu_grad_more: C = (C + P) · gelu'(U)
//   p.scale multiplies P in the stores that add it to something (add, gelu_more, gelu_grad_more).
// Strides (lda, ldb, ldc) count vec4s; the columns up to the next multiple of 4 are zero in the inputs and come out zero in C.
// The sum over K runs in one order that depends on K alone, so a row of C does not depend on the rows beside it.
// Dispatch (⌈N/TN⌉, ⌈M/TM⌉). SUBGROUP 8: one subgroup a workgroup, TM × 32 tile, A spread by broadcast (lavapipe).
// Otherwise: 256 threads, 128 × 64 tile through workgroup memory, 8 × 4 results a thread.
//% const lanes8 = SUBGROUP === 8;
//% const range = (n, f) => [...Array(n).keys()].map(f).join('');
//% if (lanes8) {
enable subgroups;
//% }
struct P { M: u32, N: u32, K: u32, lda: u32, ldb: u32, ldc: u32, bias: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> A: array<vec4f>;
@group(0) @binding(1) var<storage, read> B: array<vec4f>;
//% let at = 2;
//% const usesBias = STORE === 'plain' || STORE === 'residual' || STORE === 'gelu';
//% if (usesBias) {
@group(0) @binding(${at++}) var<storage, read> bias: array<vec4f>;
//% }
//% if (STORE === 'residual') {
@group(0) @binding(${at++}) var<storage, read> R: array<vec4f>;
//% }
//% if (STORE.startsWith('gelu_grad')) {
@group(0) @binding(${at++}) var<storage, read> U: array<vec4f>;
//% }
@group(0) @binding(${at++}) var<storage, read_write> C: array<vec4f>;
//% if (STORE === 'gelu' || STORE === 'gelu_more') {
@group(0) @binding(${at++}) var<storage, read_write> U: array<vec4f>;
//% }
@group(0) @binding(${at++}) var<uniform> p: P;

//% if (STORE.startsWith('gelu') && ACT === 'tanh') {
fn inner(x: vec4f) -> vec4f { return clamp(0.7978845608028654 * (x + 0.044715 * x * x * x), vec4f(-15), vec4f(15)); }
fn gelu(x: vec4f) -> vec4f { return 0.5 * x * (1 + tanh(inner(x))); }
fn gelu_grad(x: vec4f) -> vec4f {
  let t = tanh(inner(x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 0.134145 * x * x);
}
//% } else if (STORE.startsWith('gelu')) {
// erf after Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7.
fn erf(x: vec4f) -> vec4f {
  let a = abs(x);
  let t = 1 / (1 + 0.3275911 * a);
  let y = 1 - (((((1.061405429 * t - 1.453152027) * t) + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t * exp(-a * a);
  return sign(x) * y;
}
fn gelu(x: vec4f) -> vec4f { return 0.5 * x * (1 + erf(x * 0.7071067811865476)); }
fn gelu_grad(x: vec4f) -> vec4f {
  return 0.5 * (1 + erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * exp(-0.5 * x * x);
}
//% }

//% const store = (row, c) => ({
//%   plain: `C[${row} * p.ldc + n] = ${c} + b0;`,
//%   residual: `C[${row} * p.ldc + n] = ${c} + b0 + R[${row} * p.ldc + n];`,
//%   add: `C[${row} * p.ldc + n] += p.scale * ${c};`,
//%   gelu: `let u = ${c} + b0; U[${row} * p.ldc + n] = u; C[${row} * p.ldc + n] = gelu(u);`,
//%   gelu_grad: `C[${row} * p.ldc + n] = ${c} * gelu_grad(U[${row} * p.ldc + n]);`,
//%   gelu_more: `let u = U[${row} * p.ldc + n] + p.scale * ${c}; U[${row} * p.ldc + n] = u; C[${row} * p.ldc + n] = gelu(u);`,
//%   gelu_grad_more: `C[${row} * p.ldc + n] = (C[${row} * p.ldc + n] + p.scale * ${c}) * gelu_grad(U[${row} * p.ldc + n]);`,
//% })[STORE];

//% if (lanes8) {
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
//% } else {
//% const pad = 4;
var<workgroup> As: array<array<f32, 132>, 16>;  // [k][row]
var<workgroup> Bs: array<array<vec4f, 17>, 16>; // [k][vec4 of columns]
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) t: u32) {
  let tx = t % 16;
  let ty = t / 16;
  let n = w.x * 16 + tx;
  let m0 = w.y * 128;
  let n0 = w.x * 64;
  //% for (let i = 0; i < 8; i++) {
  var c${i} = vec4f();
  //% }
  for (var k0 = 0u; k0 < p.K; k0 += 16) {
    for (var q = 0u; q < 2; q++) {
      let e = t + q * 256;
      //% if (MODE === 'tn') {
      let k = e / 32;
      let r = (e % 32) * 4;
      var v = vec4f();
      if (k0 + k < p.K && (m0 + r) / 4 < p.lda) { v = A[(k0 + k) * p.lda + (m0 + r) / 4]; }
      As[k][r] = v.x; As[k][r + 1] = v.y; As[k][r + 2] = v.z; As[k][r + 3] = v.w;
      //% } else {
      let r = e / 4;
      let k = e % 4;
      var v = vec4f();
      if (m0 + r < p.M && k0 / 4 + k < p.lda) { v = A[(m0 + r) * p.lda + k0 / 4 + k]; }
      As[k * 4][r] = v.x; As[k * 4 + 1][r] = v.y; As[k * 4 + 2][r] = v.z; As[k * 4 + 3][r] = v.w;
      //% }
    }
    {
      //% if (MODE === 'nt') {
      let r = t / 4;
      let k = t % 4;
      var v = vec4f();
      if (n0 + r < p.N && k0 / 4 + k < p.ldb) { v = B[(n0 + r) * p.ldb + k0 / 4 + k]; }
      Bs[k * 4][r / 4][r % 4] = v.x; Bs[k * 4 + 1][r / 4][r % 4] = v.y;
      Bs[k * 4 + 2][r / 4][r % 4] = v.z; Bs[k * 4 + 3][r / 4][r % 4] = v.w;
      //% } else {
      var v = vec4f();
      if (k0 + ty < p.K && n < p.ldb) { v = B[(k0 + ty) * p.ldb + n]; }
      Bs[ty][tx] = v;
      //% }
    }
    workgroupBarrier();
    for (var k = 0u; k < 16; k++) {
      let b = Bs[k][tx];
      //% for (let i = 0; i < 8; i++) {
      c${i} = fma(vec4f(As[k][ty * 8 + ${i}]), b, c${i});
      //% }
    }
    workgroupBarrier();
  }
  let r0 = m0 + ty * 8;
  if (n < (p.N + 3) / 4) {
    //% if (usesBias) {
    let b0 = bias[n * p.bias];
    //% }
    //% for (let i = 0; i < 8; i++) {
    if (r0 + ${i} < p.M) { ${store(`(r0 + ${i})`, `c${i}`)} }
    //% }
  }
}
//% }
