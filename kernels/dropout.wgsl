// dropout: out = mask·x/(1 − rate) (+ residual where ADD), x, residual, out [N,C]. The mask is drawn from Philox with
// counter (the two words of the row's token, site, c/4) and key (the two words of state): four columns a draw, and
// nothing depends on the row's place in the batch. The gradient is the same kernel on dy, without residual.
// A number is dropped where its 32 bits are below threshold = rate·2³². Dispatch rowGrid(C/4, N), a vec4 of columns a lane.
struct P { N: u32, each: u32, ld: u32, site: u32, threshold: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> X: array<vec4f>;
//% let at = 1;
//% if (ADD) {
@group(0) @binding(${at++}) var<storage, read> residual: array<vec4f>;
//% }
@group(0) @binding(${at++}) var<storage, read> tokens: array<vec2u>;
@group(0) @binding(${at++}) var<storage, read> state: array<u32>;
@group(0) @binding(${at++}) var<storage, read_write> Y: array<vec4f>;
@group(0) @binding(${at++}) var<uniform> p: P;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) t: u32) {
  let c = w.x * 64 + t;
  let end = min((w.y + 1) * p.each, p.N);
  if (c >= p.ld) { return; }
  for (var row = w.y * p.each; row < end; row++) {
    let i = row * p.ld + c;
    let bits = philox(vec4u(tokens[row], p.site, c), vec2u(state[0], state[1] ^ 0x64726f70u)); // its own streams
    let kept = select(vec4f(), X[i] * p.scale, bits >= vec4u(p.threshold));
    //% if (ADD) {
    Y[i] = residual[i] + kept;
    //% } else {
    Y[i] = kept;
    //% }
  }
}
