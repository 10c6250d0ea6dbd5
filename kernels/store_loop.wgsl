// storeLoop(count, when, store), for kernels on CPUs whose lanes hold several vec4s by name, put in front of them: where the condition holds, runs
// store(i, of) for each i below count, of(f) being f(i) picked out of f(0), f(1), …. On such a CPU a stored vec4 becomes much code, a lane at a time: in
// a loop it is there once. How often the loop turns is not constant, or the driver would unroll it.
//% const pick = (values, i, first = 0) => (values.length === 1 ? values[0] : ((half) =>
//%   `select(${pick(values.slice(0, half), i, first)}, ${pick(values.slice(half), i, first + half)}, ${i} >= ${first + half})`)(values.length >> 1));
//% const storeLoop = (count, when, store) => (count === 1 ? `if (${when}) { ${store('0', (f) => f(0))} }`
//%   : `{ let stored = select(0u, ${count}u, ${when}); for (var i = 0u; i < stored; i++) { ${store('i', (f) => pick([...Array(count).keys()].map(f), 'i'))} } }`);
