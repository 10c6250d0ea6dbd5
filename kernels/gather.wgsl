// gather: Y[m] = X[INDEX[m]], and a row of zeros where INDEX[m] is 0xffffffff. The gradient of a gather without repeats is
// the gather by the inverse index. ADD: added to what Y holds. Y [M,C], strides in vec4s. Dispatch ⌈M·ld/64⌉.
struct P { count: u32, ld: u32 }
@group(0) @binding(0) var<storage, read> INDEX: array<u32>;
@group(0) @binding(1) var<storage, read> X: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> Y: array<vec4f>;
@group(0) @binding(3) var<uniform> p: P;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i >= p.count) { return; }
  let row = INDEX[i / p.ld];
  var x = vec4f();
  if (row != 0xffffffffu) { x = X[row * p.ld + i % p.ld]; }
  //% if (ADD) {
  Y[i] += x;
  //% } else {
  Y[i] = x;
  //% }
}
