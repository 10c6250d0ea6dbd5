// Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): 128 random bits from a 128-bit
// counter and a 64-bit key, put behind the kernels that draw. The same counter and key always give the same bits.
// WGSL has no 64-bit product: the high word is put together from 16-bit halves.
fn high_word(a: u32, b: u32) -> u32 {
  let al = a & 0xffffu;
  let ah = a >> 16;
  let bl = b & 0xffffu;
  let bh = b >> 16;
  let middle = ah * bl + ((al * bl) >> 16);
  return ah * bh + (middle >> 16) + ((al * bh + (middle & 0xffffu)) >> 16);
}
fn philox(counter: vec4u, key: vec2u) -> vec4u {
  var c = counter;
  var k = key;
  for (var round = 0; round < 10; round++) {
    c = vec4u(high_word(0xCD9E8D57u, c.z) ^ c.y ^ k.x, 0xCD9E8D57u * c.z,
      high_word(0xD2511F53u, c.x) ^ c.w ^ k.y, 0xD2511F53u * c.x);
    k += vec2u(0x9E3779B9u, 0xBB67AE85u);
  }
  return c;
}
// [0, 1) in steps of 2⁻²⁴: exact in f32, never 1.
fn uniform24(bits: u32) -> f32 { return f32(bits >> 8) * 0x1p-24; }
