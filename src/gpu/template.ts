/**
 * Kernels are WGSL with JavaScript for what WGSL cannot express (the number of named accumulators, `enable` lines):
 * a line that begins with `//%` is a statement, `${…}` in any other line is an expression. Everything else is WGSL.
 *
 *     //% for (let i = 0; i < ROWS; i++) {
 *     var c${i} = vec4f();
 *     //% }
 */
export type Constants = Record<string, number | boolean | string>;

const compiled = new Map<string, (...values: unknown[]) => string>();

/** The WGSL text of a kernel for the given constants, which the template sees as variables. */
export function renderTemplate(source: string, constants: Constants): string {
  const names = Object.keys(constants).sort();
  const key = `${names.join()}\n${source}`;
  let render = compiled.get(key);
  if (!render) {
    const body = source.split('\n').map((line) => {
      const statement = /^\s*\/\/%(.*)$/.exec(line);
      if (statement) return statement[1];
      return `out += \`${line}\\n\`;`; // WGSL has no backticks and no backslashes
    });
    render = new Function(...names, `let out = '';\n${body.join('\n')}\nreturn out;`) as (...values: unknown[]) => string;
    compiled.set(key, render);
  }
  return render(...names.map((name) => constants[name]));
}
