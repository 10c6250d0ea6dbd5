// rotary: rotates the query and key heads of QKV [N, …] in place by their positions (RoPE, Su et al. 2021, in the
// half-split form of transformers): (a, b) → (a·cos − b·sin, b·cos + a·sin) for a = x[i], b = x[i + D/2].
// TABLE [context, D] = cos of D/2 angles, then sin of them; POS [N]. SIGN −1 turns gradients back.
// D is no constant here: drivers unroll loops of a constant length, and that takes them seconds.
// Dispatch ⌈N·heads/64⌉: a lane takes one head of one token; query heads first, then key heads at column KOFF.
struct P { N: u32, heads: u32, queries: u32, ld: u32, koff: u32, D: u32 }
@group(0) @binding(0) var<storage, read> TABLE: array<f32>;
@group(0) @binding(1) var<storage, read> POS: array<u32>;
@group(0) @binding(2) var<storage, read_write> QKV: array<f32>;
@group(0) @binding(3) var<uniform> p: P;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i >= p.N * p.heads) { return; }
  let n = i / p.heads;
  let h = i % p.heads;
  let base = n * p.ld + select(p.koff + (h - p.queries) * p.D, h * p.D, h < p.queries);
  let angles = POS[n] * p.D;
  let half = p.D / 2;
  for (var d = 0u; d < half; d++) {
    let c = TABLE[angles + d];
    let s = ${SIGN} * TABLE[angles + half + d];
    let a = QKV[base + d];
    let b = QKV[base + half + d];
    QKV[base + d] = a * c - b * s;
    QKV[base + half + d] = b * c + a * s;
  }
}
