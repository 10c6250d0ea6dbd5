// norm: y = (x − mean)/√(var + eps) · g + b, a row at a time (KIND layer), or y = x/√(mean(x²) + eps) · g (KIND rms).
// X, Y [N,C]; G, B [C]; S [N,2] keeps (mean, 1/√…) of each row for the gradient. Strides in vec4s.
// OWN > 0: a lane's OWN vec4s of the row stay in registers, else they are read again. Dispatch
// grid(⌈N/ROWS⌉) with reduction.wgsl in front: LANES lanes take a row, a workgroup ROWS = WG/LANES of them; with TURNS, p.turns times as
// many, one after another, with the same g and b in registers (for CPUs).
struct P { N: u32, C: u32, ld: u32, eps: f32, turns: u32 }
@group(0) @binding(0) var<storage, read> X: array<vec4f>;
@group(0) @binding(1) var<storage, read> G: array<vec4f>;
//% let at = 2;
//% if (KIND === 'layer') {
@group(0) @binding(${at++}) var<storage, read> B: array<vec4f>;
//% }
@group(0) @binding(${at++}) var<storage, read_write> Y: array<vec4f>;
@group(0) @binding(${at++}) var<storage, read_write> S: array<vec2f>;
@group(0) @binding(${at++}) var<uniform> p: P;
//% const kept = (name, i) => (TURNS && OWN ? `${name.toLowerCase()}${i}` : `${name}[c]`);
//% const each = (f) => (OWN ? [...Array(OWN).keys()].map((i) => `{ let c = lane + ${i * LANES}; ${f(`x${i}`, i)} }`).join('\n  ')
//%   : `for (var c = lane; c < p.ld; c += ${LANES}) { let x = X[base + c]; ${f('x')} }`);
@compute @workgroup_size(${WG})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) t: u32) {
  let lane = t % ${LANES};
  //% for (let i = 0; i < OWN; i++) {
  let at${i} = ${i * LANES + LANES <= LD ? `lane + ${i * LANES}` : `min(lane + ${i * LANES}, p.ld - 1)`};
  //% if (TURNS) {
  let g${i} = G[at${i}];
  //% if (KIND === 'layer') {
  let b${i} = B[at${i}];
  //% } } }
  //% if (TURNS) {
  for (var turn = 0u; turn < p.turns; turn++) {
  let row = ((w.y * groups.x + w.x) * p.turns + turn) * ${WG / LANES} + t / ${LANES};
  //% } else {
  let row = (w.y * groups.x + w.x) * ${WG / LANES} + t / ${LANES};
  //% }
  let base = min(row, p.N - 1) * p.ld;
  //% for (let i = 0; i < OWN; i++) {
  let x${i} = ${i * LANES + LANES <= LD ? `X[base + at${i}]` : `select(vec4f(), X[base + at${i}], lane + ${i * LANES} < p.ld)`};
  //% }
  var all = vec4f();
  //% if (KIND === 'layer') {
  ${each((x) => `all += ${x};`)}
  //% } else {
  ${each((x) => `all += ${x} * ${x};`)}
  //% }
  let first = sum(all.x + all.y + all.z + all.w, t) / f32(p.C);
  //% if (KIND === 'layer') {
  let mean = first;
  var squares = vec4f();
  ${each((x) => `let d = select(vec4f(), ${x} - mean, vec4u(0, 1, 2, 3) + c * 4 < vec4u(p.C)); squares += d * d;`)}
  let r = 1 / sqrt(sum(squares.x + squares.y + squares.z + squares.w, t) / f32(p.C) + p.eps);
  //% } else {
  let mean = 0.0;
  let r = 1 / sqrt(first + p.eps);
  //% }
  if (row < p.N) {
    //% if (KIND === 'layer') { // G and B are zero in the padding columns
    ${each((x, i) => `if (c < p.ld) { Y[base + c] = (${x} - mean) * r * ${kept('G', i)} + ${kept('B', i)}; }`)}
    //% } else {
    ${each((x, i) => `if (c < p.ld) { Y[base + c] = ${x} * r * ${kept('G', i)}; }`)}
    //% }
    if (lane == 0) { S[row] = vec2f(mean, r); }
  }
  //% if (TURNS) {
  }
  //% }
}
