import { defineConfig } from 'tsup';

/** One bundle: the program, its libraries and its kernels. Only Dawn's native addon stays outside. */
export default defineConfig({
  entry: { cli: 'src/cli.ts' },
  format: 'esm',
  platform: 'node',
  target: 'node20',
  outDir: 'dist',
  clean: true,
  minify: false,
  splitting: true,
  external: ['webgpu'],
  noExternal: [/^(?!webgpu$).*/],
  loader: { '.wgsl': 'text', '.iife.min.js': 'text', '.html': 'text', '.css': 'text', '.txt': 'text' },
  banner: {
    js: "#!/usr/bin/env node\nimport { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);",
  },
});
