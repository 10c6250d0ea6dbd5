import { dependencies, devDependencies, version } from '../package.json';

/**
 * Versions of the program and of what it computes with; package.json pins the latter exactly. Everything but Dawn's native
 * addon is bundled, and so a dependency of the build only: an installation brings one package, not tfjs's hundred.
 */
export const versions = { rlhf: version, dawn: dependencies.webgpu, tfjs: devDependencies['@tensorflow/tfjs'] };
