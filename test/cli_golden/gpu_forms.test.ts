// The comparisons of pytorch.test.ts with the kernels and plans that a GPU gets. They are slow on a software driver, which never uses
// them otherwise: without this file, a fault between the kernels (which have tests of their own) would show on GPUs alone.
process.env.RLHF_GPU_FORMS = '1';
process.env.LP_NATIVE_VECTOR_WIDTH = '128'; // of which these forms know nothing: Mesa's driver compiles them in half the time
await import('./pytorch.test.ts');

export {};
