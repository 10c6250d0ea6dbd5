// What chat templates mean where JavaScript and Python differ. The Jinja library evaluates with JavaScript's operators and string
// methods, and its interpreter is changed here, once, for the expressions whose result would silently be another one.
import { Environment, Interpreter, Template } from '@huggingface/jinja';

interface Value {
  type: string;
  value: unknown;
  toString(): string;
  builtins: ReadonlyMap<string, Value>;
}
interface Node {
  type: string;
  [part: string]: unknown;
}
/** The parts of the interpreter that are changed; the library's types call them private. */
interface Evaluator {
  evaluate(node: Node, scope: Environment): Value;
  evaluateArguments(args: Node[], scope: Environment): [Value[], Map<string, Value>];
  evaluateBinaryExpression(node: Node, scope: Environment): Value;
  evaluateBlock(nodes: Node[], scope: Environment): Value;
  applyFilter(operand: Value, filter: Node, scope: Environment): Value;
}
type Test = (...operands: Value[]) => boolean;

/** What Python's str.strip() takes away, which JavaScript's trim() does not quite: it takes U+FEFF and leaves U+001C–1F and U+0085. */
const SPACE = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';
const SPACES = new RegExp(`[${SPACE}]+`, 'u');
const NUMBERS = new Set(['IntegerValue', 'FloatValue', 'BooleanValue']);
/** Statements whose value is not printed. */
const SILENT = new Set(['Set', 'Macro', 'Comment']);

const valueOf = (value: unknown): Value => new Environment().set('value', value) as unknown as Value;
const functionOf = (f: (args: Value[]) => Value): Value => {
  const like = valueOf(() => null);
  return new (like.constructor as new (value: unknown) => Value)(f);
};

/** str.strip, lstrip or rstrip. */
function strip(text: string, chars: Value | undefined, left: boolean, right: boolean): string {
  const given = chars && chars.type !== 'NullValue' ? chars.value : undefined;
  if (given !== undefined && typeof given !== 'string') throw new Error('strip argument must be a string');
  const set = given === undefined ? undefined : new Set(given);
  const goes = (char: string): boolean => (set ? set.has(char) : SPACES.test(char));
  const points = [...text];
  let [from, to] = [0, points.length];
  while (left && from < to && goes(points[from]!)) from++;
  while (right && to > from && goes(points[to - 1]!)) to--;
  return points.slice(from, to).join('');
}

const capitalize = (text: string): string => {
  const [first = '', ...rest] = text;
  return first.toUpperCase() + rest.join('').toLowerCase();
};

/** str.split() without a separator. */
function splitAtSpaces(text: string, most: number): string[] {
  const parts: string[] = [];
  let rest = strip(text, undefined, true, false);
  while (rest !== '' && (most < 0 || parts.length < most)) {
    const end = rest.search(SPACES);
    if (end < 0) break;
    parts.push(rest.slice(0, end));
    rest = strip(rest.slice(end), undefined, true, false);
  }
  return rest === '' ? parts : [...parts, rest];
}

function stringMethods(text: string, library: ReadonlyMap<string, Value>): Map<string, Value> {
  const own = (f: (args: Value[]) => unknown): Value => functionOf((args) => valueOf(f(args)));
  const affix = (value: Value | undefined): string => {
    if (typeof value?.value !== 'string') throw new Error('the prefix or suffix must be a string');
    return value.value;
  };
  const split = library.get('split')! as Value & { value: (args: Value[]) => Value };
  return new Map([
    ...library,
    ['strip', own(([chars]) => strip(text, chars, true, true))],
    ['lstrip', own(([chars]) => strip(text, chars, true, false))],
    ['rstrip', own(([chars]) => strip(text, chars, false, true))],
    ['capitalize', own(() => capitalize(text))],
    ['removeprefix', own(([prefix]) => (text.startsWith(affix(prefix)) ? text.slice(affix(prefix).length) : text))],
    ['removesuffix', own(([suffix]) => (affix(suffix) !== '' && text.endsWith(affix(suffix)) ? text.slice(0, -affix(suffix).length) : text))],
    ['split', functionOf((args) => {
      const [separator, most] = args;
      if (separator && separator.type !== 'NullValue') return split.value(args);
      return valueOf(splitAtSpaces(text, most?.type === 'IntegerValue' ? (most.value as number) : -1));
    })],
  ]);
}

/** Python's a == b: numbers and booleans by value, texts, lists and mappings by content, and nothing equals another type. */
function equal(a: Value, b: Value): boolean {
  if (NUMBERS.has(a.type) && NUMBERS.has(b.type)) return Number(a.value) === Number(b.value);
  if (a.type !== b.type) return false;
  if (a.type === 'ArrayValue' || a.type === 'TupleValue') {
    const [x, y] = [a.value as Value[], b.value as Value[]];
    return x.length === y.length && x.every((item, i) => equal(item, y[i]!));
  }
  if (a.type === 'ObjectValue') {
    const [x, y] = [a.value as Map<string, Value>, b.value as Map<string, Value>];
    return x.size === y.size && [...x].every(([key, item]) => y.has(key) && equal(item, y.get(key)!));
  }
  return a.value === b.value;
}

/** A value as {{ … }} and ~ print it. */
function printed(value: Value): string {
  if (value.type === 'UndefinedValue') return '';
  if (value.type === 'NullValue') return 'None';
  if (value.type === 'BooleanValue') return value.value ? 'True' : 'False';
  return value.toString();
}

/** The filters of texts (and `list` of a mapping) that are to be other than the library's; undefined for all others. */
function filtered(operand: Value, name: unknown, args: Value[]): Value | undefined {
  if (operand.type === 'ObjectValue' && name === 'list') return valueOf([...(operand.value as Map<string, Value>).keys()]);
  if (operand.type !== 'StringValue') return undefined;
  const text = operand.value as string;
  switch (name) {
    case 'trim':
      return valueOf(strip(text, args[0], true, true));
    case 'capitalize':
      return valueOf(capitalize(text));
    case 'title':
      // Jinja's own rule, not str.title()'s.
      return valueOf(text.split(/([-\s({[<]+)/u).map(capitalize).join(''));
    case 'length': case 'count':
      return valueOf([...text].length);
    case 'list':
      return valueOf([...text]);
    case 'first':
      return valueOf([...text].at(0));
    case 'last':
      return valueOf([...text].at(-1));
    default:
      return undefined;
  }
}

function changeLibrary(): void {
  const evaluator = Interpreter.prototype as unknown as Evaluator;
  const { applyFilter, evaluateBinaryExpression } = evaluator;
  evaluator.evaluateBinaryExpression = function (node, scope) {
    const operator = (node['operator'] as Node)['value'];
    if (operator !== '==' && operator !== '!=' && operator !== '~' && operator !== '%') {
      return evaluateBinaryExpression.call(this, node, scope);
    }
    const left = this.evaluate(node['left'] as Node, scope);
    const right = this.evaluate(node['right'] as Node, scope);
    if (operator === '~') return valueOf(printed(left) + printed(right));
    if (operator !== '%') return valueOf(equal(left, right) === (operator === '=='));
    if (left.type !== 'IntegerValue' || right.type !== 'IntegerValue' || right.value === 0) {
      throw new Error(`% of ${left.type} and ${right.type} is not supported`);
    }
    // The remainder has the divisor's sign.
    const [a, b] = [left.value as number, right.value as number];
    return valueOf(a - b * Math.floor(a / b));
  };
  evaluator.evaluateBlock = function (nodes, scope) {
    let text = '';
    for (const node of nodes) {
      const value = this.evaluate(node, scope);
      if (!SILENT.has(node.type)) text += printed(value);
    }
    return valueOf(text);
  };
  evaluator.applyFilter = function (operand, filter, scope) {
    const call = filter.type === 'CallExpression';
    const name = call ? (filter['callee'] as Node)['value'] : filter['value'];
    const args = call ? this.evaluateArguments(filter['args'] as Node[], scope)[0] : [];
    // `first` of an empty list is no value at all in the library.
    return filtered(operand, name, args) ?? applyFilter.call(this, operand, filter, scope) ?? valueOf(undefined);
  };
  const text = Object.getPrototypeOf(valueOf('')) as object;
  const library = Object.getOwnPropertyDescriptor(text, 'builtins')!.get!;
  Object.defineProperty(text, 'builtins', {
    get(this: Value) {
      return stringMethods(this.value as string, library.call(this) as ReadonlyMap<string, Value>);
    },
  });
  const tests = new Environment().tests as unknown as Map<string, Test>;
  for (const name of ['equalto', 'eq', '==']) tests.set(name, equal as Test);
  for (const name of ['ne', '!=']) tests.set(name, (a, b) => !equal(a!, b!));
  tests.set('iterable', ({ type }) => /^(Array|Tuple|Object|String)Value$/.test(type));
}
changeLibrary();

export { Template };
