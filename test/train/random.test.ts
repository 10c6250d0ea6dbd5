import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type Purpose, RandomStream } from '../../src/train/random.ts';

const PURPOSES: Purpose[] = [
  'shuffle',
  'initialise',
  'subset',
  'bootstrap',
  'prompts',
  'pretrain',
  'minibatch',
  'head',
];
const bits = (stream: RandomStream, n: number): number[] => Array.from({ length: n }, () => stream.bits());

test('the same names give the same numbers', () => {
  assert.equal(bits(new RandomStream(5, 'shuffle', 2, 3), 40), bits(new RandomStream(5, 'shuffle', 2, 3), 40));
});

test('streams differ by seed (all 53 bits of it), purpose and both numbers', () => {
  const streams = [
    ...PURPOSES.map((p) => new RandomStream(1, p)),
    ...[0, 2, 2 ** 32, 2 ** 32 + 1, 2 ** 52 + 1].map((seed) => new RandomStream(seed, 'shuffle')),
    new RandomStream(1, 'shuffle', 1),
    new RandomStream(1, 'shuffle', 0, 1),
    new RandomStream(1, 'shuffle', 1, 1),
  ];
  // 64 numbers of 32 bits from each: among so many, a pair that agrees anywhere would be a chance of 1e-4.
  const all = streams.flatMap((s) => bits(s, 64));
  assert.is(new Set(all).size, all.length);
});

test('uniform numbers: 20 bins, mean, variance and neighbours are those of independent draws', () => {
  const stream = new RandomStream(9, 'bootstrap');
  const n = 100_000;
  const x = Array.from({ length: n }, () => stream.uniform());
  assert.ok(x.every((v) => v >= 0 && v < 1));
  const bins = new Array(20).fill(0);
  for (const v of x) bins[Math.floor(v * 20)]++;
  const chi2 = bins.reduce((sum, count) => sum + (count - n / 20) ** 2 / (n / 20), 0);
  assert.ok(chi2 < 50, `χ² ${chi2} of 19 degrees of freedom`); // 1 in 10,000 is above 50
  const mean = x.reduce((a, b) => a + b) / n;
  const variance = x.reduce((a, v) => a + (v - mean) ** 2, 0) / n;
  const neighbours = x.slice(1).reduce((sum, v, i) => sum + (v - mean) * (x[i] - mean), 0) / n / variance;
  // Five standard errors each.
  assert.ok(Math.abs(mean - 0.5) < 5 * Math.sqrt(1 / 12 / n), `mean ${mean}`);
  assert.ok(Math.abs(variance - 1 / 12) < 5 * Math.sqrt(1 / 180 / n), `variance ${variance}`);
  assert.ok(Math.abs(neighbours) < 5 / Math.sqrt(n), `correlation ${neighbours}`);
});

test('uniform numbers use 53 bits: none repeats, the lowest bit is set in half of them', () => {
  const stream = new RandomStream(3, 'subset');
  const x = Array.from({ length: 10_000 }, () => stream.uniform() * 2 ** 53);
  assert.is(new Set(x).size, x.length);
  const odd = x.filter((v) => v % 2 === 1).length;
  assert.ok(Math.abs(odd - 5000) < 250, `${odd} odd`);
});

test('normal numbers have mean 0, variance 1 and a normal’s fourth moment', () => {
  const stream = new RandomStream(4, 'initialise');
  const n = 100_000;
  const x = Array.from({ length: n }, () => stream.normal());
  const moment = (k: number): number => x.reduce((sum, v) => sum + v ** k, 0) / n;
  assert.ok(x.every(Number.isFinite));
  for (const [k, expected, spread] of [
    [1, 0, 1],
    [2, 1, 2],
    [3, 0, 15],
    [4, 3, 96],
  ]) {
    assert.ok(Math.abs(moment(k) - expected) < 5 * Math.sqrt(spread / n), `moment ${k}: ${moment(k)}`);
  }
});

test('permutations hold everything once and every order equally often', () => {
  assert.equal([...new RandomStream(1, 'shuffle').permutation(0)], []);
  assert.equal(
    [...new RandomStream(1, 'shuffle').permutation(100)].sort((a, b) => a - b),
    [...Array(100).keys()],
  );
  const counts = new Map<string, number>();
  for (let i = 0; i < 6000; i++) {
    const order = new RandomStream(2, 'shuffle', i).permutation(3).join();
    counts.set(order, (counts.get(order) ?? 0) + 1);
  }
  assert.is(counts.size, 6);
  const chi2 = [...counts.values()].reduce((sum, c) => sum + (c - 1000) ** 2 / 1000, 0);
  assert.ok(chi2 < 26, `χ² ${chi2} of 5 degrees of freedom`); // 1 in 10,000 is above 26
});

test('below(n) reaches every number under n and no other', () => {
  const stream = new RandomStream(6, 'prompts');
  const seen = new Set(Array.from({ length: 500 }, () => stream.below(7)));
  assert.equal([...seen].sort(), [0, 1, 2, 3, 4, 5, 6]);
  assert.is(stream.below(1), 0);
});

test.run();
