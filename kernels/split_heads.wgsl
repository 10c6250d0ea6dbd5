// What the kernels of attention for GPUs share (attention_split, attention_split_grad_q, attention_split_grad_kv), put in front of them, behind
// heads.wgsl and attention_bindings.wgsl. The GROUP lanes beside each other that share QUERIES queries (or keys) add up their parts of each
// dot product by shuffles where SHUFFLES says that a subgroup holds them all, else through workgroup memory: in the same order, so with
// the same bits.
//% const SHARE = LANES / GROUP * QUERIES; // queries (or keys) of a workgroup, the w.x % PARTSth of its tile
//% const begin = `let tile = TILE[w.x / ${PARTS}];
//%   let row = tile.x;
//%   let length = tile.y;
//%   let first = tile.z + (w.x % ${PARTS}) * ${SHARE};
//%   if (first >= length) { return; }`;
//% const ROW = GROUP * OWN; // vec4s of a staged row: those behind the head's end are zeros
//% const vecq = QUERIES === 1 ? 'f32' : `vec${QUERIES}f`;
//% const at = (name, q) => (QUERIES === 1 ? name : `${name}.${'xyzw'[q]}`);
// One value for each of a lane's queries, and the sum of dot products.
//% const lanes = (type, f) => `${QUERIES === 1 ? type : `vec${QUERIES}<${type}>`}(${list(QUERIES).map(f).join(', ')})`;
//% const dots = (pairs) => pairs.reduce((sum, [a, b]) => [...'xyzw'].reduce((inner, c) => (inner ? `fma(${a}.${c}, ${b}.${c}, ${inner})` : `${a}.${c} * ${b}.${c}`), sum), '');
// Vec4 i of those that a lane has of the head that begins at number base.
//% const reach = (j, value) => (ROW > D4 ? `select(vec4f(), ${value}, ${j} < ${D4})` : value);
//% const own = (name, base, i) => reach(`g + ${i * GROUP}`, `head_${name}(${base}, ${ROW > D4 ? `min(g + ${i * GROUP}, ${D4 - 1})` : `g + ${i * GROUP}`})`);
//% const store = (name, base, i, value) => {
//%   const j = `(g + ${i * GROUP})`;
//%   if (D % 4 === 0) return `${ROW > D4 ? `if (${j} < ${D4}) ` : ''}{ ${name}[${base} / 4 + ${j}] = ${value}; }`;
//%   return `{ let value = ${value}; ${list(4).map((c) => `if (${j} * 4 + ${c} < ${D}) { ${name}[${base} + ${j} * 4 + ${c}] = value.${'xyzw'[c]}; }`).join(' ')} }`;
//% };
// Rows first … first + KEYS − 1 of the row of tokens, place(j) being where its jth lies and end their number, each [array in workgroup memory, tensor, its stride, column of the head]: what a
// lane reads it reads before it waits for the lanes that still work on the rows before.
//% const stage = (first, parts, { place = (j) => `place(tile, ${j})`, end = 'length', more = '' } = {}) => {
//%   const count = KEYS * ROW;
//%   const turns = list(Math.ceil(count / LANES));
//%   const guarded = (i, text) => (i * LANES + LANES > count ? `if (s < ${count - i * LANES}) { ${text} }` : text);
//%   const reading = turns.map((i) => `let e${i} = ${i * LANES + LANES > count ? `min(s + ${i * LANES}, ${count - 1}u)` : `s + ${i * LANES}`}; let token${i} = ${place(`min(${first} + e${i} / ${ROW}, ${end} - 1)`)};
//%     ${parts.map(([to, name, ld, column]) => `let ${to}_${i} = ${reach(`e${i} % ${ROW}`, `head_${name}(token${i} * ${ld} + ${column}, ${ROW > D4 ? `min(e${i} % ${ROW}, ${D4 - 1})` : `e${i} % ${ROW}`})`)};`).join('\n    ')}`);
//%   const writing = turns.map((i) => guarded(i, parts.map(([to]) => `${to}[e${i}] = ${to}_${i};`).join(' ')));
//%   return [...reading, 'workgroupBarrier();', ...writing, more, 'workgroupBarrier();'].join('\n    ');
//% };
//% if (GROUP > 1 && !SHUFFLES) {
var<workgroup> group_parts: array<${vecq}, ${BATCH * LANES}>;
//% }
// Replaces each of the named variables by its sum over the group.
//% const sums = (names) => {
//%   if (GROUP === 1) return '';
//%   const steps = list(Math.log2(GROUP)).map((i) => 2 ** i);
//%   if (SHUFFLES) return steps.map((d) => names.map((name) => `${name} += subgroupShuffleXor(${name}, ${d}u);`).join(' ')).join('\n      ');
//%   const total = (i, from, count) => (count === 1 ? `group_parts[${i * LANES} + s - g + ${from}]` : `(${total(i, from, count / 2)} + ${total(i, from + count / 2, count / 2)})`);
//%   const batches = list(Math.ceil(names.length / BATCH)).map((b) => names.slice(b * BATCH, (b + 1) * BATCH));
//%   return batches.map((batch) => `${batch.map((name, i) => `group_parts[${i * LANES} + s] = ${name};`).join(' ')}
//%     workgroupBarrier();
//%     ${batch.map((name, i) => `${name} = ${total(i, 0, GROUP)};`).join(' ')}
//%     workgroupBarrier();`).join('\n');
//% };
