// decode_input: collects what the next decoding step reads, row by row, from the slots' state: the token to feed, its
// position and the random key of the draw. ROW [A] = slot of each row (0xffffffff: none, fed token 0 at position 0).
// STATE [S,8] = (token, position, key 0, key 1 | key 2, draw number, drawn so far, finished). Dispatch ⌈A/64⌉.
struct P { rows: u32 }
@group(0) @binding(0) var<storage, read> ROW: array<u32>;
@group(0) @binding(1) var<storage, read> STATE: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> ID: array<u32>;
@group(0) @binding(3) var<storage, read_write> POS: array<u32>;
@group(0) @binding(4) var<storage, read_write> KEY: array<vec4u>;
@group(0) @binding(5) var<uniform> p: P;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.rows) { return; }
  let slot = ROW[id.x];
  if (slot == 0xffffffffu) {
    ID[id.x] = 0;
    POS[id.x] = 0;
    KEY[id.x] = vec4u();
    return;
  }
  let a = STATE[slot * 2];
  let b = STATE[slot * 2 + 1];
  ID[id.x] = a.x;
  POS[id.x] = a.y;
  KEY[id.x] = vec4u(a.z, a.w, b.x, b.y);
}
