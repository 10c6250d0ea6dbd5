// Sums and maxima over the LANES lanes of a row, put in front of the kernels that reduce. t is the index in the
// workgroup of WG lanes; every lane gets the result. LANES = SUBGROUP: one subgroup operation. LANES = WG > SUBGROUP:
// subgroups first, then workgroup memory. SUBGROUP 0 (no fixed size): a tree in workgroup memory, LANES = WG.
// The order is fixed, so a run repeats bit for bit. A driver that runs subgroups on a CPU reduces lane by lane in a loop, eight broadcasts
// with a fixed lane take it a quarter of that: there 8 lanes (SUBGROUP) take a row, and where subgroups have 16 (CPU_LANES) two rows share one.
//% if (SUBGROUP) {
enable subgroups;
//% }
//% const reductions = [['sum', 'f32'], ['sum4', 'vec4f'], ['max1', 'f32'], ['max4', 'vec4f']];
//% for (const [name, type] of reductions) {
//% const sums = name.startsWith('sum');
//% const both = (a, b) => (sums ? `${a} + ${b}` : `max(${a}, ${b})`);
//% const inSubgroup = sums ? 'subgroupAdd' : 'subgroupMax';
//% const eight = (first) => [0, 1, 2, 3, 4, 5, 6, 7].map((lane) => `subgroupBroadcast(v, ${first + lane})`).reduce((a, b) => (sums ? `(${a} + ${b})` : `max(${a}, ${b})`));
//% const own = !CPU_LANES || SUBGROUP !== 8 ? `${inSubgroup}(v)` : CPU_LANES > 8 && WG > 8 ? `select(${eight(8)}, ${eight(0)}, t % 16 < 8)` : eight(0);
//% if (SUBGROUP && LANES === SUBGROUP) {
fn ${name}(v: ${type}, t: u32) -> ${type} { return ${own}; }
//% } else if (SUBGROUP) {
var<workgroup> ${name}_part: array<${type}, ${WG / SUBGROUP}>;
fn ${name}(v: ${type}, t: u32) -> ${type} {
  let own = ${own};
  if (t % ${SUBGROUP} == 0) { ${name}_part[t / ${SUBGROUP}] = own; }
  workgroupBarrier();
  var all = ${name}_part[0];
  for (var i = 1u; i < ${WG / SUBGROUP}; i++) { all = ${both('all', `${name}_part[i]`)}; }
  workgroupBarrier();
  return all;
}
//% } else {
var<workgroup> ${name}_part: array<${type}, ${WG}>;
fn ${name}(v: ${type}, t: u32) -> ${type} {
  ${name}_part[t] = v;
  workgroupBarrier();
  for (var d = ${WG / 2}u; d > 0; d /= 2) {
    if (t < d) { ${name}_part[t] = ${both(`${name}_part[t]`, `${name}_part[t + d]`)}; }
    workgroupBarrier();
  }
  let all = ${name}_part[0];
  workgroupBarrier();
  return all;
}
//% } }
