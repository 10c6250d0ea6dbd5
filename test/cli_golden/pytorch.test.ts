import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { buildWholeProgram, jsonLines, type WholeProgram } from '../properties/program.ts';

// Commands of a few steps on models of 20,000 parameters, whose results scripts/check-pytorch computed in PyTorch. Sums
// in another order leave updates 1e-5 apart (Adam divides by small numbers), a rate that is 0.2 % off more than this.
const UPDATE = 1e-3;

interface Golden {
  args: string[];
  stdin?: string;
  loss?: number[];
  numbers?: number[];
  answers?: [string, string][];
  episodes?: { tokens: number[]; logprobs: number[]; values: number[]; score: number }[][];
  [changes: `changes ${string}`]: Record<string, number[]>;
}

const fixtures = join(process.env.RLHF_ROOT!, 'test', 'fixtures', 'cli_golden');
const all = JSON.parse(readFileSync(join(fixtures, 'golden.json'), 'utf8')) as Golden[];

let rlhf: WholeProgram;
test.before(async () => {
  rlhf = await buildWholeProgram();
  mkdirSync(rlhf.path('work'));
  for (const name of readdirSync(fixtures)) {
    const own = ['sft.jsonl', 'packing.jsonl', 'rm.jsonl'].includes(name); // the script's work folder holds these
    cpSync(join(fixtures, name), rlhf.path(own ? 'work' : '.', name), { recursive: true });
  }
});
test.after(() => rlhf.remove());

for (const golden of all) {
  const { args, stdin } = golden;
  const at = args.indexOf('--out');
  const out = at < 0 ? undefined : args[at + 1];
  test(`${args[0]} ${out ?? args[2]} equals PyTorch's`, async () => {
    const rows = jsonLines(await rlhf.succeed([...args, '--quiet'], stdin));
    if (golden.numbers) near(numbersOf(rows), golden.numbers, 2e-4, 'numbers');
    if (golden.answers)
      assert.equal(
        rows.map((r) => [r.completion, r.finish_reason]),
        golden.answers,
      );
    if (!out) return;
    const metrics = jsonLines(readFileSync(rlhf.path(out, 'metrics.jsonl'), 'utf8'));
    if (golden.loss)
      near(
        metrics.map((m) => m.loss),
        golden.loss,
        1e-4,
        'losses',
      );
    golden.episodes?.forEach((expected, i) => {
      const episodes = jsonLines(readFileSync(rlhf.path(out, 'rollouts', `step-00000${i + 1}.jsonl`), 'utf8'));
      assert.equal(
        episodes.map((e) => e.tokens),
        expected.map((e) => e.tokens),
        `tokens of iteration ${i + 1}`,
      );
      for (const key of ['logprobs', 'values', 'score'] as const) {
        near(
          episodes.flatMap((e) => e[key]),
          expected.flatMap((e) => e[key]),
          2e-4,
          `${key} of iteration ${i + 1}`,
        );
      }
    });
    const start = args[Math.max(args.indexOf('--model'), args.indexOf('--policy')) + 1];
    for (const [key, changes] of Object.entries(golden).filter(([name]) => name.startsWith('changes '))) {
      const part = key.slice('changes '.length);
      const before = part === 'value' ? args[args.indexOf('--reward') + 1] : start;
      compareChanges(rlhf.path(before), rlhf.path(out, part), changes as Record<string, number[]>);
    }
  });
}

test('there are updates of all three stages, of value models, averages and raw weights', () => {
  const parts = all.flatMap((g) =>
    Object.keys(g)
      .filter((k) => k.startsWith('changes '))
      .map((k) => `${g.args[0]} ${k.slice(8)}`),
  );
  assert.equal([...new Set(parts)].sort(), ['ppo .', 'ppo raw', 'ppo value', 'train-rm .', 'train-sft .']);
  assert.is(parts.length, 8);
});

/** What logprobs and score say: each response's log-probabilities and their mean, or rewards. */
function numbersOf(rows: Record<string, any>[]): number[] {
  return rows.flatMap((row) => {
    if ('reward' in row) return [row.reward];
    if ('rewards' in row) return row.rewards;
    const lists: number[][] = 'completion' in row ? [row.logprobs] : row.logprobs;
    const sums: number[] = 'completion' in row ? [row.sum] : row.sum;
    return lists.flatMap((list, i) => [...list, sums[i] / Math.max(1, list.length)]);
  });
}

function near(found: number[], expected: number[], tolerance: number, what: string): void {
  assert.is(found.length, expected.length, `${what}: how many`);
  found.forEach((x, i) =>
    assert.ok(Math.abs(x - expected[i]) <= tolerance, `${what}[${i}] is ${x}, PyTorch has ${expected[i]}`),
  );
}

/**
 * Compares each tensor's update with PyTorch's, given as its norm and its products with eight ±1 vectors. The product
 * of such a vector with a deviation is as large as the deviation's norm, in root mean square.
 */
function compareChanges(before: string, after: string, changes: Record<string, number[]>): void {
  const start = tensors(before);
  const end = tensors(after);
  assert.ok(Object.keys(changes).length > 15, 'nearly every tensor is compared');
  for (const [name, [norm, ...products]] of Object.entries(changes)) {
    let change = end.get(name)!.map((x, i) => x - (start.get(name)?.[i] ?? 0));
    // The key bias has no gradient but rounding's, which Adam makes steps of.
    if (name.endsWith('c_attn.bias')) change = change.filter((_, i) => Math.floor((3 * i) / change.length) !== 1);
    const squares = products.map(
      (product, j) => (change.reduce((sum, x, i) => sum + x * sign(i, j), 0) - product) ** 2,
    );
    const deviation = Math.sqrt(squares.reduce((sum, x) => sum + x, 0) / squares.length);
    const ours = Math.hypot(...change);
    assert.ok(
      deviation <= UPDATE * norm,
      `${name}: the update is off by ${(deviation / norm).toExponential(1)} of its norm`,
    );
    assert.ok(Math.abs(ours - norm) <= UPDATE * norm, `${name}: the update's norm is ${ours}, PyTorch's ${norm}`);
  }
}

/** The script's hash of a place to ±1; its square needs 64 bits. */
function sign(place: number, index: number): number {
  const hashed = BigInt(place * 40503 + index * 9973 + 12345);
  return Number((((hashed * hashed) % 2147483647n) >> 13n) & 1n) * 2 - 1;
}

function tensors(folder: string): Map<string, Float64Array> {
  const path = join(folder, 'model.safetensors');
  assert.ok(existsSync(path), path);
  const bytes = readFileSync(path);
  const size = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + size)) as Record<string, { data_offsets: [number, number] }>;
  return new Map(
    Object.entries(header)
      .filter(([name]) => name !== '__metadata__')
      .map(
        ([
          name,
          {
            data_offsets: [from, to],
          },
        ]) => {
          const data = bytes.subarray(8 + size + from, 8 + size + to);
          return [name, Float64Array.from({ length: data.length / 4 }, (_, i) => data.readFloatLE(4 * i))];
        },
      ),
  );
}

test.run();
