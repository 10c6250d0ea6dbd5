// cache_write: stores the (rotated) keys and values of tokens in their rows' caches: K[slot, head, position, :] and V alike.
// QKV [N, …] with keys from column KOFF and values from VOFF, WIDTH = key heads · D columns each; SLOT [N] (0xffffffff: none),
// POS [N]; K, V [slots, key heads, LENGTH, D]. TEXTURES: also in KT, VT, textures that hold K and V texel after texel (src/gpu/mirror.ts).
// VEC: D, KOFF and VOFF are multiples of 4 and all counts are of vec4s. Dispatch rowGrid(WIDTH, N), a column a lane.
//% const type = VEC ? 'vec4f' : 'f32';
struct P { N: u32, each: u32, width: u32, ld: u32, koff: u32, voff: u32, length: u32, d: u32 }
@group(0) @binding(0) var<storage, read> SLOT: array<u32>;
@group(0) @binding(1) var<storage, read> POS: array<u32>;
@group(0) @binding(2) var<storage, read> QKV: array<${type}>;
@group(0) @binding(3) var<storage, read_write> K: array<${type}>;
@group(0) @binding(4) var<storage, read_write> V: array<${type}>;
//% if (TEXTURES) {
@group(0) @binding(5) var KT: texture_storage_2d<rgba32float, write>;
@group(0) @binding(6) var VT: texture_storage_2d<rgba32float, write>;
@group(0) @binding(7) var<uniform> p: P;
//% } else {
@group(0) @binding(5) var<uniform> p: P;
//% }
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) t: u32) {
  let c = w.x * 64 + t;
  let end = min((w.y + 1) * p.each, p.N);
  if (c >= p.width) { return; }
  let head = c / p.d;
  for (var n = w.y * p.each; n < end; n++) {
  let slot = SLOT[n];
  let place = POS[n];
  if (slot == 0xffffffffu || place >= p.length) { continue; }
    let to = slot * p.width * p.length + (head * p.length + place) * p.d + c % p.d;
    let key = QKV[n * p.ld + p.koff + c];
    let value = QKV[n * p.ld + p.voff + c];
    K[to] = key;
    V[to] = value;
    //% if (TEXTURES) {
    let at = vec2u(to & ${TEXTURES - 1}, to >> ${Math.log2(TEXTURES)});
    textureStore(KT, at, key);
    textureStore(VT, at, value);
    //% }
  }
}
