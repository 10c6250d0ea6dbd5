import { defineConfig } from 'tsup';
import loaders from './scripts/loaders.json';

/** One bundle: the program, its libraries and its kernels. Only Dawn's native addon stays outside. */
export default defineConfig({
  entry: { cli: 'src/cli.ts' },
  format: 'esm',
  platform: 'node',
  target: 'node20',
  outDir: 'dist',
  clean: ['!rlhf*'], // all but what `npm run build:binary` made
  minify: false,
  splitting: true,
  silent: true,
  external: ['webgpu'],
  noExternal: [/^(?!webgpu$).*/],
  loader: loaders as Record<keyof typeof loaders, 'text'>,
  banner: {
    // For bundled CommonJS libraries that require Node's own modules.
    js: [
      '#!/usr/bin/env node',
      "import { createRequire as __createRequire } from 'node:module';",
      'const require = __createRequire(import.meta.url);',
    ].join('\n'),
  },
});
