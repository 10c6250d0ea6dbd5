const BINDING = /(@group\(0\)\s*@binding\((\d+)\)\s*var<storage[^>]*>\s*(\w+)\s*:\s*)array<(\w+)>/g;
const TEXTURE = /(@group\(0\)\s*@binding\((\d+)\)\s*var\s+\w+\s*:\s*texture_storage_2d(?:_array)?<)rgba32float/g;
const NARROW: Readonly<Record<string, string>> = { f32: 'f16', vec2f: 'vec2h', vec4f: 'vec4h' };
const STORE = /\s*([-+*/]?)=(?!=)/y;
const MEMBER_STORE = /\s*\.\w+\s*[-+*/]?=(?!=)/y;

/**
 * WGSL written for f32, with the numbered bindings kept as f16: what is read from buffers is widened and what is stored is
 * narrowed (textures give f32 anyway), so that all arithmetic stays in f32 and kernels need not know of it. A store must
 * replace a whole element. Throws where a binding holds no floats, or a part of an element is stored.
 */
export function withHalfStorage(wgsl: string, halves: ReadonlySet<number>): string {
  if (halves.size === 0) return wgsl;
  const types = new Map<string, string>();
  const declared = wgsl.replace(/\/\/.*$/gm, '').replace(BINDING, (whole, head: string, binding: string, name: string, type: string) => {
    if (!halves.has(Number(binding))) return whole;
    if (!NARROW[type]) throw new Error(`${name}: an array of ${type} cannot hold f16`);
    types.set(name, type);
    return `${head}array<${NARROW[type]}>`;
  });
  const textured = declared.replace(TEXTURE, (whole, head: string, binding: string) =>
    (halves.has(Number(binding)) ? `${head}rgba16float` : whole));
  return types.size === 0 ? textured : `enable f16;\n${converted(textured, types)}`;
}

function converted(text: string, types: ReadonlyMap<string, string>): string {
  const access = new RegExp(`(?<![\\w.])(${[...types.keys()].join('|')})\\s*\\[`, 'g');
  let out = '';
  let at = 0;
  for (let found = access.exec(text); found; found = access.exec(text)) {
    const name = found[1];
    const type = types.get(name)!;
    const open = access.lastIndex;
    const close = closing(text, open);
    const element = `${name}[${converted(text.slice(open, close), types)}]`;
    out += text.slice(at, found.index);
    MEMBER_STORE.lastIndex = STORE.lastIndex = close + 1;
    if (MEMBER_STORE.test(text)) throw new Error(`${name}: a part of an f16 element is stored`);
    const store = STORE.exec(text);
    if (store) {
      const first = STORE.lastIndex;
      at = text.indexOf(';', first);
      const value = converted(text.slice(first, at), types).trim();
      out += `${element} = ${NARROW[type]}(${store[1] ? `${type}(${element}) ${store[1]} (${value})` : value})`;
    } else {
      at = close + 1;
      out += `${type}(${element})`;
    }
    access.lastIndex = at;
  }
  return out + text.slice(at);
}

/** Where the bracket that was opened just before `at` is closed. */
function closing(text: string, at: number): number {
  let depth = 1;
  let i = at;
  for (; depth > 0 && i < text.length; i++) {
    if (text[i] === '[') depth++;
    else if (text[i] === ']') depth--;
  }
  return i - 1;
}
