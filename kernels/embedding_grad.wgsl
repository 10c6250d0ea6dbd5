// embedding_grad: G[id] += Σ of DX[n] over the tokens n with that id. The host sorts the tokens by id: RUN [R,4] holds
// (id, first, end, 0) for each distinct id, ORDER [N] the tokens in that order; unused runs are empty. No atomics, so
// the sum has one order. G may be rows FIRST… of a larger table. Dispatch (⌈ld/WG⌉, …grid(R)), WG lanes,
// a vec4 of columns a lane.
struct P { ld: u32, first: u32, rows: u32, runs: u32 }
@group(0) @binding(0) var<storage, read> RUN: array<vec4u>;
@group(0) @binding(1) var<storage, read> ORDER: array<u32>;
@group(0) @binding(2) var<storage, read> DX: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> G: array<vec4f>;
@group(0) @binding(4) var<uniform> p: P;
@compute @workgroup_size(${WG})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) t: u32) {
  let c = w.x * ${WG} + t;
  let r = w.z * groups.y + w.y;
  if (r >= p.runs) { return; }
  let run = RUN[r];
  let row = run.x - p.first;
  if (c >= p.ld || run.y >= run.z || row >= p.rows) { return; }
  var sum = vec4f();
  for (var i = run.y; i < run.z; i++) { sum += DX[ORDER[i] * p.ld + c]; }
  G[row * p.ld + c] += sum;
}
