// norm_grad: with x̂ = (x − mean)·r and u = dy·g:
//   layer: dx = r·(u − mean(u) − x̂·mean(u·x̂))      rms: dx = r·(u − x̂·mean(u·x̂))
// X, DY, DX [N,C]; G [C]; S [N,2] = (mean, r) from the forward pass. ADD: dx is added to what DX holds (the residual
// path's gradient), else it replaces it. Gradients of g and b are column sums (column_sum.wgsl). Dispatch, OWN and TURNS as norm.wgsl.
struct P { N: u32, C: u32, ld: u32, turns: u32 }
@group(0) @binding(0) var<storage, read> X: array<vec4f>;
@group(0) @binding(1) var<storage, read> G: array<vec4f>;
@group(0) @binding(2) var<storage, read> S: array<vec2f>;
@group(0) @binding(3) var<storage, read> DY: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> DX: array<vec4f>;
@group(0) @binding(5) var<uniform> p: P;
//% const each = (f) => (OWN ? [...Array(OWN).keys()].map((i) => `{ let c = lane + ${i * LANES}; ${f(`xh${i}`, `u${i}`)} }`).join('\n  ')
//%   : `for (var c = lane; c < p.ld; c += ${LANES}) { let xh = (X[base + c] - s.x) * s.y; let u = DY[base + c] * G[c]; ${f('xh', 'u')} }`);
@compute @workgroup_size(${WG})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) t: u32) {
  let lane = t % ${LANES};
  //% for (let i = 0; i < OWN; i++) {
  let at${i} = ${i * LANES + LANES <= LD ? `lane + ${i * LANES}` : `min(lane + ${i * LANES}, p.ld - 1)`};
  //% if (TURNS) {
  let g${i} = G[at${i}];
  //% } }
  //% if (TURNS) {
  for (var turn = 0u; turn < p.turns; turn++) {
  let row = ((w.y * groups.x + w.x) * p.turns + turn) * ${WG / LANES} + t / ${LANES};
  //% } else {
  let row = (w.y * groups.x + w.x) * ${WG / LANES} + t / ${LANES};
  //% }
  let base = min(row, p.N - 1) * p.ld;
  let s = S[min(row, p.N - 1)];
  //% for (let i = 0; i < OWN; i++) {
  //% const dy = `DY[base + at${i}] * ${TURNS ? `g${i}` : `G[at${i}]`}`;
  let xh${i} = (X[base + at${i}] - s.x) * s.y;
  let u${i} = ${i * LANES + LANES <= LD ? dy : `select(vec4f(), ${dy}, lane + ${i * LANES} < p.ld)`}; // zero in the padding columns
  //% }
  var su = vec4f();
  var sx = vec4f();
  ${each((xh, u) => `su += ${u}; sx += ${u} * ${xh};`)}
  let means = sum4(vec4f(su.x + su.y + su.z + su.w, sx.x + sx.y + sx.z + sx.w, 0, 0), t) / f32(p.C);
  //% const store = ADD ? '+=' : '=';
  if (row < p.N) {
    //% if (KIND === 'layer') {
    ${each((xh, u) => `if (c < p.ld) { DX[base + c] ${store} select(vec4f(), s.y * (${u} - means.x - ${xh} * means.y), vec4u(0, 1, 2, 3) + c * 4 < vec4u(p.C)); }`)}
    //% } else {
    ${each((xh, u) => `if (c < p.ld) { DX[base + c] ${store} s.y * (${u} - ${xh} * means.y); }`)}
    //% }
  }
  //% if (TURNS) {
  }
  //% }
}
