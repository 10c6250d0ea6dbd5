import { rewriteKernels } from './device.ts';

/** What a builtin is when the last lane of the last workgroup stands where the first of the first stood. */
const FROM_BEHIND: Record<string, (forwards: string, size: number[]) => string> = {
  workgroup_id: (forwards) => `groups_from_behind - 1u - ${forwards}`,
  local_invocation_index: (forwards, size) => `${size[0] * size[1] * size[2] - 1}u - ${forwards}`,
  global_invocation_id: (forwards, size) => `groups_from_behind * vec3u(${size.join()}) - 1u - ${forwards}`,
};

/** A kernel's text with the order of its lanes and workgroups reversed. Errors: where it uses a builtin that is not known here. */
function reversed(code: string): string {
  const [, x, y = 1, z = 1] = /@workgroup_size\((\d+)(?:,\s*(\d+))?(?:,\s*(\d+))?\)/.exec(code)!;
  const size = [x, y, z].map(Number);
  return code.replace(/fn main\(((?:[^()]|\([^()]*\))*)\)\s*\{/, (_, parameters: string) => {
    let begin = '';
    const given = parameters.replace(/@builtin\((\w+)\)\s*(\w+)/g, (_all, builtin: string, name: string) => {
      if (builtin === 'num_workgroups') {
        begin = `let ${name} = groups_from_behind;\n${begin}`;
        return '@builtin(num_workgroups) groups_from_behind';
      }
      const turned = FROM_BEHIND[builtin]?.(`${name}_forwards`, size);
      if (!turned) throw new Error(`@builtin(${builtin}) is not reversed`);
      begin += `let ${name} = ${turned};\n`;
      return `@builtin(${builtin}) ${name}_forwards`;
    });
    const groups = given.includes('groups_from_behind') ? '' : ', @builtin(num_workgroups) groups_from_behind: vec3u';
    return `fn main(${given}${groups}) {\n${begin}`;
  });
}

/** Has all kernels that are compiled from now on run from behind. Returns how many texts were changed so far. */
export function reverseKernels(): () => number {
  let changed = 0;
  rewriteKernels((code) => {
    const text = reversed(code);
    changed += Number(text !== code);
    return text;
  });
  return () => changed;
}
