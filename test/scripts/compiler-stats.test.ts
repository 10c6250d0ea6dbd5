// What scripts/compiler-stats.mjs reads off a driver's words; the driver itself is not asked.
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const root = process.env.RLHF_ROOT ?? '.';
const { kernelsOf, table, variantOf } = await import(join(root, 'scripts/compiler-stats-table.mjs'));

const printed = (vgprs: number, spilled: number): string => `
Compute Shader:
disasm:
BB0:
	s_endpgm                                                    ; bfb00000

*** SHADER STATS ***
Driver pipeline hash: 427
VGPRs: ${vgprs}
Spilled VGPRs: ${spilled}
Inverse Throughput: 43
********************
`;
const line = (index: number, kernel: string, constants: string, error?: string): string =>
  JSON.stringify({ index, kernel, constants, steps: { train: 2 + index }, error });

test('each kernel gets the numbers that stand behind its mark; one that was not compiled has none', () => {
  const stdout = ['{"adapter":"radv"}', line(0, 'norm', '{"SUBGROUP":32}'), line(1, 'add', '{"SUBGROUP":0}', 'Error: no\nmore'), line(2, 'ema', '{"SUBGROUP":0}')].join('\n');
  const stderr = `a warning: 7\n\ncompiler-stats: 0\n${printed(24, 0)}\ncompiler-stats: 1\n\ncompiler-stats: 2\n${printed(256, 17)}`;
  const kernels = kernelsOf(stdout, stderr);
  assert.equal(kernels.map(({ kernel, stats }: { kernel: string; stats: Record<string, number> }) => [kernel, stats['VGPRs'], stats['Spilled VGPRs'], stats['Inverse Throughput']]),
    [['norm', 24, 0, 43], ['add', undefined, undefined, undefined], ['ema', 256, 17, 43]]);
  const rows = table(kernels).split('\n');
  assert.match(rows[0], /^VGPRs  spilled .* kernel$/);
  assert.match(rows[1], / 3  add  SUBGROUP 0  ERROR Error: no$/);
  assert.match(rows[2], /^  256 +17 .* 43 +4  ema  SUBGROUP 0$/);
  assert.match(rows[3], /^   24 +0 /);
});

test('a form is told by the constants that are set, and by what is stored as f16', () => {
  assert.is(variantOf('{"SUBGROUP":0,"MODE":"nn","ACT":"","COLUMNS":false,"PREFETCH":true,"WIDTH_K":0} f16: 0,1'), 'SUBGROUP 0, MODE nn, PREFETCH f16: 0,1');
});

test.run();
