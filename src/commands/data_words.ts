import type { Positional } from './command.ts';

/** Files may also be named without `--data`. */
export const dataWords: Positional = {
  key: 'data',
  value: 'FILE',
  text: 'Input rows, like --data.',
  many: true,
  exists: true,
  option: true,
};
