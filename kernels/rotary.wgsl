// rotary: rotates the query and key heads of QKV [N, …] in place by their positions (RoPE, Su et al. 2021, in the
// half-split form of transformers): (a, b) → (a·cos − b·sin, b·cos + a·sin) for a = x[i], b = x[i + D/2].
// TABLE [context, D] = cos of D/2 angles, then sin of them; POS [N]. SIGN −1 turns gradients back. HALF = D/2.
// VEC: HALF is a multiple of 4, and a lane takes four pairs, else one. Dispatch rowGrid(heads·HALF (/4), N): query heads first,
// then key heads from column KOFF.
//% const unit = VEC ? 4 : 1, type = VEC ? 'vec4f' : 'f32', each = HALF / unit;
struct P { N: u32, each: u32, heads: u32, queries: u32, ld: u32, koff: u32 }
@group(0) @binding(0) var<storage, read> TABLE: array<${type}>;
@group(0) @binding(1) var<storage, read> POS: array<u32>;
@group(0) @binding(2) var<storage, read_write> QKV: array<${type}>;
@group(0) @binding(3) var<uniform> p: P;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) t: u32) {
  let i = w.x * 64 + t;
  let h = i / ${each};
  let d = i % ${each};
  let column = select(p.koff + (h - p.queries) * ${2 * each}, h * ${2 * each}, h < p.queries) + d;
  let end = min((w.y + 1) * p.each, p.N);
  if (h >= p.heads) { return; }
  for (var n = w.y * p.each; n < end; n++) {
  let at = n * p.ld + column;
    let angle = POS[n] * ${2 * each} + d;
    let c = TABLE[angle];
    let s = ${SIGN} * TABLE[angle + ${each}];
    let a = QKV[at];
    let b = QKV[at + ${each}];
    QKV[at] = a * c - b * s;
    QKV[at + ${each}] = b * c + a * s;
  }
}
