import { dependencies, version } from '../package.json';

/** Versions of the program and of what it computes with; package.json pins the latter exactly. */
export const versions = { rlhf: version, dawn: dependencies.webgpu, tfjs: dependencies['@tensorflow/tfjs'] };
