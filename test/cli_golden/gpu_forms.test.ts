// The comparisons of pytorch.test.ts with the kernels and plans that a GPU gets. They are slow on a software driver, which never uses
// them otherwise: without this file, a fault between the kernels (which have tests of their own) would show on GPUs alone.
process.env.RLHF_GPU_FORMS = '1';
await import('./pytorch.test.ts');

export {};
