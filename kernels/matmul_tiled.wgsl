// matmul_tiled: the product of matmul.wgsl (which stands before it) for GPUs. 256 threads, 128 × 64 results, 8 × 4 a thread,
// K by 16 through workgroup memory. Dispatch (⌈N/64⌉, ⌈M/128⌉).
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
