// What the kernels of attention bind, the forms for CPUs and those for GPUs alike, put in front of them behind heads.wgsl. PASS is one of
//   attention          reads QKV, writes O and L
//   attention_grad_q   reads QKV, O, L and DO, writes the query columns of DQKV and DELTA
//   attention_grad_kv  reads QKV, L, DELTA and DO, writes the key and value columns of DQKV
// with the shapes that attention.wgsl and attention_grad_q.wgsl give. SHUFFLES: lanes share numbers by subgroup operations.
//% if (SHUFFLES) {
enable subgroups;
//% }
// TILE.w tells what rows share, 0 where nothing. Of a row that goes on from the tokens of one above: 2¹⁶ · how many they are + how much further up
// they lie than right before its own, which are those at its places from there on. Of the row above: how many tokens the rows have that go on
// from it; they lie right behind it, and all of them read all of its keys.
struct P { H: u32, ld: u32, ldo: u32, koff: u32, voff: u32, group: u32, scale: f32, qkv0: u32, do0: u32 }
//% let binding = 2;
@group(0) @binding(0) var<storage, read> TILE: array<vec4u>;
${reads(1, 'QKV')}
//% if (PASS === 'attention') {
@group(0) @binding(${binding++}) var<storage, read_write> O: ${array};
@group(0) @binding(${binding++}) var<storage, read_write> L: array<f32>;
//% } else if (PASS === 'attention_grad_q') {
${reads(binding++, 'O')}
@group(0) @binding(${binding++}) var<storage, read> L: array<f32>;
${reads(binding++, 'DO')}
@group(0) @binding(${binding++}) var<storage, read_write> DQKV: ${array};
@group(0) @binding(${binding++}) var<storage, read_write> DELTA: array<f32>;
//% } else {
@group(0) @binding(${binding++}) var<storage, read> L: array<f32>;
@group(0) @binding(${binding++}) var<storage, read> DELTA: array<f32>;
${reads(binding++, 'DO')}
@group(0) @binding(${binding++}) var<storage, read_write> DQKV: ${array};
//% }
@group(0) @binding(${binding}) var<uniform> p: P;
//% if (PASS === 'attention_grad_kv') {
fn followers(tile: vec4u) -> u32 { return select(tile.w, 0u, (tile.w >> 16) > 0); }
//% } else {
// Where the token at place j of a tile's row lies.
fn place(tile: vec4u, j: u32) -> u32 { return tile.x + j - select(0u, tile.w & 0xffff, (tile.w >> 16) > j); }
//% }
${heads(...{ attention: ['QKV'], attention_grad_q: ['QKV', 'O', 'DO'], attention_grad_kv: ['QKV', 'DO'] }[PASS])}
