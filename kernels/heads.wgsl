// Reading heads of D numbers as D4 vec4s, put in front of the attention kernels: reads(binding, NAME) declares what NAME is read
// from, heads(NAME, …) a function head_NAME(base, j) that gives vec4 j of the head that begins at number base, zeros behind
// its end. WIDTH_NAME > 0: NAME is a texture of so many texels a row that holds the buffer (src/gpu/mirror.ts), and base counts
// from its first texel. D that is no multiple of 4 is read number by number.
//% const D4 = Math.ceil(D / 4), vec = D % 4 === 0;
//% const list = (n) => [...Array(n).keys()];
//% const array = vec ? 'array<vec4f>' : 'array<f32>';
//% const WIDTHS = { QKV: WIDTH_QKV, DO: WIDTH_DO, K: WIDTH_K, V: WIDTH_V };
//% const reads = (binding, name) => `@group(0) @binding(${binding}) var${WIDTHS[name]
//%   ? ` ${name}: texture_storage_2d<rgba32float, read>` : `<storage, read> ${name}: ${array}`};`;
//% const heads = (...names) => names.map((name) => {
//%   const width = WIDTHS[name];
//%   if (width) return `fn head_${name}(base: u32, j: u32) -> vec4f {
//%     let i = base / 4 + j;
//%     return textureLoad(${name}, vec2u(i & ${width - 1}, i >> ${Math.log2(width)}));
//%   }`;
//%   if (vec) return `fn head_${name}(base: u32, j: u32) -> vec4f { return ${name}[base / 4 + j]; }`;
//%   const rest = [1, 2, 3].map((c) => `select(0.0, ${name}[b + ${c}], left > ${c})`).join(', ');
//%   return `fn head_${name}(base: u32, j: u32) -> vec4f {
//%     let b = base + j * 4;
//%     let left = ${D} - j * 4;
//%     return vec4f(${name}[b], ${rest});
//%   }`;
//% }).join('\n');
// Of the forms for CPUs, subgroups of 8 or 16 lanes: the heads of 8 rows in registers, row x in lane x, or half of it each in lanes x and
// x + 8. spreadHeads(name, NAME, base) loads them, base being that of the lane's row (number s % 8), and ofRow(name, j, x) is vec4 j of row x.
//% const OWN_VEC4S = Math.ceil(D4 / (LANES / 8));
//% const spreadHeads = (name, NAME, base) => list(OWN_VEC4S).map((i) =>
//%   `let ${name}${i} = head_${NAME}(${base}, ${LANES > 8 ? `min(s / 8 * ${OWN_VEC4S} + ${i}, ${D4 - 1})` : i});`).join(' ');
//% const ofRow = (name, j, x) => `subgroupBroadcast(${name}${j % OWN_VEC4S}, ${8 * Math.floor(j / OWN_VEC4S) + x})`;
// storeHead(NAME, at, value, when): where the condition holds, writes a head's vec4s value(0), value(1), … to NAME, from number at on. On such a CPU a
// stored vec4 becomes much code, a lane at a time: in a loop, which picks the value, it is there once. How often it turns is not constant, or the
// driver would unroll it.
//% const pick = (values, first = 0) => (values.length === 1 ? values[0] : ((half) =>
//%   `select(${pick(values.slice(0, half), first)}, ${pick(values.slice(half), first + half)}, i >= ${first + half})`)(values.length >> 1));
//% const storeHead = (NAME, at, value, when) => (vec
//%   ? `{ let stored = select(0u, ${D4}u, ${when}); for (var i = 0u; i < stored; i++) { ${NAME}[(${at}) / 4 + i] = ${pick(list(D4).map(value))}; } }`
//%   : `if (${when}) { ${list(D).map((c) => `${NAME}[${at} + ${c}] = ${value(c >> 2)}.${'xyzw'[c % 4]};`).join(' ')} }`);
