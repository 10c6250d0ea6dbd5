// The program as one CommonJS script, the form in which Node keeps compiled code inside an executable: with it the
// program starts in half the time. Modules that a command does not use stay unevaluated.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';

/** Bundles `root`/src/binary/main.ts into `outfile`, without Dawn's npm package: src/binary/dawn.ts takes its place. */
export async function bundle(root, outfile, plugins = []) {
  await build({
    entryPoints: [join(root, 'src/binary/main.ts')],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'cjs',
    target: 'node24',
    external: ['webgpu'],
    loader: JSON.parse(readFileSync(join(root, 'scripts/loaders.json'), 'utf8')),
    minifySyntax: true,
    minifyWhitespace: true, // names stay, so that stack traces tell something
    legalComments: 'eof',
    logLevel: 'warning',
    plugins,
  });
}
