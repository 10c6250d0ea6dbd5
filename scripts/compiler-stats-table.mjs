// What compiler-stats.mjs reads off the driver's words, and the table it makes of it.

const MARK = /^compiler-stats: (\d+)$/m;
const COLUMNS = {
  VGPRs: 'VGPRs', spilled: 'Spilled VGPRs', scratch: 'Scratch size', LDS: 'LDS size', 'waves/SIMD': 'Subgroups per SIMD', instr: 'Instructions',
  VALU: 'VALU', latency: 'Latency', 'inv.thr.': 'Inverse Throughput',
};

/**
 * A kernel for each line of the child's standard output that has an index, with the numbers that the driver printed for it between that
 * mark and the next on standard error: {index, kernel, constants, steps, error, stats, text}.
 */
export function kernelsOf(stdout, stderr) {
  const parts = stderr.split(MARK);
  const texts = new Map();
  for (let i = 1; i < parts.length; i += 2) texts.set(Number(parts[i]), parts[i + 1]);
  return stdout.split('\n').filter((line) => line.startsWith('{"index"')).map((line) => {
    const kernel = JSON.parse(line);
    const text = texts.get(kernel.index) ?? '';
    const printed = text.slice(text.lastIndexOf('*** SHADER STATS ***'));
    const stats = Object.fromEntries([...printed.matchAll(/^([A-Za-z][\w -]*): (\d+)\s*$/gm)].map(([, name, value]) => [name, Number(value)]));
    return { ...kernel, stats, text };
  });
}

/** The constants that tell a kernel's forms apart, in few characters. */
export function variantOf(constants) {
  const [, json, rest] = /^(\{.*\})(.*)$/.exec(constants);
  const values = Object.entries(JSON.parse(json)).filter(([name, value]) => value !== '' && value !== false && !name.startsWith('WIDTH_') && name !== 'EMULATED');
  return values.map(([name, value]) => (value === true ? name : `${name} ${value}`)).join(', ') + rest;
}

/** A line a kernel, those that launch most often in one step first within their name. */
export function table(kernels) {
  const sorted = [...kernels].sort((a, b) => a.kernel.localeCompare(b.kernel) || a.index - b.index);
  const head = [...Object.keys(COLUMNS), 'most', 'kernel'];
  const rows = sorted.map(({ kernel, constants, stats, steps, error }) => [
    ...Object.values(COLUMNS).map((name) => String(stats[name] ?? '–')),
    String(Math.max(0, ...Object.values(steps))),
    `${kernel}  ${variantOf(constants)}${error ? `  ERROR ${error.split('\n')[0]}` : ''}`,
  ]);
  const widths = head.map((name, i) => Math.max(name.length, ...rows.map((row) => row[i].length)));
  return [head, ...rows].map((row) => row.map((cell, i) => (i === row.length - 1 ? cell : cell.padStart(widths[i]))).join('  ')).join('\n');
}
