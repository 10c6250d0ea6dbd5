// decode_advance: takes the drawn tokens into the slots' state: the token goes to OUT [S, LENGTH] and is fed next, the
// position and the key's draw number move on, and the slot is finished at an end token of END (1), at its limit (2), or where
// there was nothing to draw (3: 0xffffffff, see sampler.wgsl).
// STATE as in decode_input.wgsl; LIMIT [S] = most tokens to draw; ROW, NEXT [A]. Dispatch ⌈A/64⌉.
struct P { rows: u32, length: u32, ends: u32 }
@group(0) @binding(0) var<storage, read> ROW: array<u32>;
@group(0) @binding(1) var<storage, read> NEXT: array<u32>;
@group(0) @binding(2) var<storage, read> LIMIT: array<u32>;
@group(0) @binding(3) var<storage, read> END: array<u32>;
@group(0) @binding(4) var<storage, read_write> STATE: array<vec4u>;
@group(0) @binding(5) var<storage, read_write> OUT: array<u32>;
@group(0) @binding(6) var<uniform> p: P;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.rows) { return; }
  let slot = ROW[id.x];
  if (slot == 0xffffffffu) { return; }
  var a = STATE[slot * 2];
  var b = STATE[slot * 2 + 1];
  if (b.w != 0) { return; } // finished: b = (key, key, drawn, finished)
  let token = NEXT[id.x];
  if (token == 0xffffffffu) {
    STATE[slot * 2 + 1].w = 3;
    return;
  }
  OUT[slot * p.length + b.z] = token;
  a.x = token;
  a.y += 1;
  b.y += 1; // the key's draw number
  b.z += 1;
  for (var e = 0u; e < p.ends; e++) { if (token == END[e]) { b.w = 1; } }
  if (b.w == 0 && b.z >= LIMIT[slot]) { b.w = 2; }
  STATE[slot * 2] = a;
  STATE[slot * 2 + 1] = b;
}
