// matmul: C[M,N] = op(A) · op(B), with what follows the product fused into the store.
//   MODE  nn: A[M,K] B[K,N]   nt: A[M,K] B[N,K]   tn: A[K,M] B[K,N]
//   STORE plain: C = P + bias          residual: C = P + bias + R      add: C += P
//         gelu:  U = P + bias, C = gelu(U)                             gelu_grad: C = P · gelu'(U)
//         gelu_alone: C = gelu(P + bias), where no gradient will ask for U
//         gelu_more: U += P, C = gelu(U)      gelu_grad_more: C = (C + P) · gelu'(U)
//         part: C[z] = P over the z-th p.chunk steps of K (matmul_tiled.wgsl), for matmul_split.wgsl to sum; p.rows of C a part
//   COLUMNS (tn of matmul_broadcast.wgsl and matmul_tiled.wgsl): the sums of B's columns are added to G [N], a bias' gradient beside
//         its matrix'; in the store part those of the z-th steps are row M of C[z].
//   p.scale multiplies P in the stores that add it to something (add, gelu_more, gelu_grad_more).
// Strides (lda, ldb, ldc) count vec4s; the columns up to the next multiple of 4 are zero in the inputs and come out zero in C.
// The sum over K runs in one order that depends on K alone, so a row of C does not depend on the rows beside it.
// This part holds the bindings and the stores; the main loop follows it: matmul_broadcast.wgsl (lavapipe), matmul_tiled.wgsl (GPUs)
// or matmul_subgroup_matrix.wgsl (f16 operands on GPUs with matrix units).
//% const range = (n, f) => [...Array(n).keys()].map(f).join('');
//% if (FORM === 'broadcast') {
enable subgroups;
//% } else if (FORM === 'subgroup_matrix') {
enable f16;
//% if (!EMULATED) {
enable subgroups;
enable chromium_experimental_subgroup_matrix;
//% if (PINNED) {
enable subgroup_size_control;
//% }
//% }
//% }
//% if (FORM === 'broadcast') {
struct P { M: u32, N: u32, K: u32, lda: u32, ldb: u32, ldc: u32, bias: u32, scale: f32, a: u32, b: u32 }
@group(0) @binding(0) var A: texture_storage_2d${A_WIDTH ? '' : '_array'}<rgba32float, read>;
@group(0) @binding(1) var B: texture_storage_2d${B_WIDTH ? '' : '_array'}<rgba32float, read>;
//% } else {
struct P { M: u32, N: u32, K: u32, lda: u32, ldb: u32, ldc: u32, bias: u32, scale: f32${STORE === 'part' ? ', chunk: u32, rows: u32' : ''} }
@group(0) @binding(0) var<storage, read> A: array<vec4f>;
@group(0) @binding(1) var<storage, read> B: array<vec4f>;
//% }
//% let at = 2;
//% const usesBias = ['plain', 'residual', 'gelu', 'gelu_alone'].includes(STORE);
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
//% if (COLUMNS && STORE !== 'part') {
@group(0) @binding(${at++}) var<storage, read_write> G: array<vec4f>;
//% }
@group(0) @binding(${at++}) var<uniform> p: P;

//% if (STORE.startsWith('gelu') && ACT === 'tanh') {
fn inner(x: vec4f) -> vec4f { return clamp(0.7978845608028654 * (x + 0.044715 * x * x * x), vec4f(-15), vec4f(15)); }
fn gelu(x: vec4f) -> vec4f { return 0.5 * x * (1 + tanh(inner(x))); }
fn gelu_grad(x: vec4f) -> vec4f {
  let t = tanh(inner(x));
  let y = clamp(x, vec4f(-7), vec4f(7)); // beyond, tanh is ±1, of which a device's may be an ulp off: times x³ that would be far from 0
  return 0.5 * (1 + t) + 0.5 * y * (1 - t * t) * 0.7978845608028654 * (1 + 0.134145 * y * y);
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
//%   gelu_alone: `C[${row} * p.ldc + n] = gelu(${c} + b0);`,
//%   gelu_grad: `C[${row} * p.ldc + n] = ${c} * gelu_grad(U[${row} * p.ldc + n]);`,
//%   gelu_more: `let u = U[${row} * p.ldc + n] + p.scale * ${c}; U[${row} * p.ldc + n] = u; C[${row} * p.ldc + n] = gelu(u);`,
//%   gelu_grad_more: `C[${row} * p.ldc + n] = (C[${row} * p.ldc + n] + p.scale * ${c}) * gelu_grad(U[${row} * p.ldc + n]);`,
//%   part: `C[(w.z * p.rows + ${row}) * p.ldc + n] = ${c};`,
//% })[STORE];
