// The tests of attention.test.ts through workgroup memory and by shuffles among four lanes, as GPUs without subgroups of a fixed size run them: with
// vectors of 128 bits, which take a third of the time to compile.
process.env.LP_NATIVE_VECTOR_WIDTH = '128';
process.env.RLHF_TEST_FORMS = 'memory';

await import('./attention.test.ts');

export {}; // a module, so that it may await
