// The tests of matmul.test.ts through workgroup memory, as GPUs without subgroups run them: with vectors of 128 bits, which take a third of the time to compile.
process.env.LP_NATIVE_VECTOR_WIDTH = '128';
process.env.RLHF_TEST_FORMS = 'memory';

await import('./matmul.test.ts');

export {}; // a module, so that it may await
