// gather: Y[m] = X[INDEX[m]], and a row of zeros where INDEX[m] is 0xffffffff. The gradient of a gather without repeats is
// the gather by the inverse index. ADD: added to what Y holds. Y [M,C], strides in vec4s. Dispatch rowGrid(ld, M).
struct P { M: u32, each: u32, ld: u32 }
@group(0) @binding(0) var<storage, read> INDEX: array<u32>;
@group(0) @binding(1) var<storage, read> X: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> Y: array<vec4f>;
@group(0) @binding(3) var<uniform> p: P;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) t: u32) {
  let c = w.x * 64 + t;
  let end = min((w.y + 1) * p.each, p.M);
  if (c >= p.ld) { return; }
  for (var m = w.y * p.each; m < end; m++) {
    let i = m * p.ld + c;
    let row = INDEX[m];
    var x = vec4f();
    if (row != 0xffffffffu) { x = X[row * p.ld + c]; }
    //% if (ADD) {
    Y[i] += x;
    //% } else {
    Y[i] = x;
    //% }
  }
}
