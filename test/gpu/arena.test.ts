// Where values of recorded steps lie: never two that are needed at once in one place, nor what a command reads in a buffer that it writes;
// close together, and as planned on paper.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Arena, Value, type Use } from '../../src/gpu/arena.ts';
import { onPaper } from '../../src/gpu/paper.ts';
import { closeAfterTests, openForTests, seeded } from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

/** A step like a model's: layers whose values are kept for a way back that needs them in reverse, beside short-lived ones. */
function step(seed: number, layers: number, rows: number): { uses: Use[]; values: Value[] } {
  const random = seeded(seed);
  const values: Value[] = [];
  const value = (width: number): Value => {
    const made = new Value(rows * width * 4);
    made.held = false;
    values.push(made);
    return made;
  };
  const uses: Use[] = [];
  const kept: Value[][] = [];
  let x = value(64);
  uses.push({ reads: [], writes: [x] });
  for (let i = 0; i < layers; i++) {
    const inner = [1, 2, 3].map(() => value(16 * (1 + random.below(20))));
    const y = value(64);
    [x, ...inner].forEach((from, j) => uses.push({ reads: [x, from].slice(0, 1 + (j % 2)), writes: [[...inner, y][j]!] }));
    kept.push([x, ...inner]);
    x = y;
  }
  let dx = value(64);
  uses.push({ reads: [x], writes: [dx] });
  for (const [input, ...inner] of kept.reverse()) {
    const gradients = inner.map(({ bytes }) => value(bytes / (4 * rows)));
    inner.forEach((one, j) => uses.push({ reads: [one, gradients[j - 1] ?? dx], writes: [gradients[j]!] }));
    const next = value(64);
    uses.push({ reads: [input!, gradients.at(-1)!], writes: [next] });
    dx = next;
  }
  return { uses, values };
}

/** Fails where a command would find something else in a value than was put there, or bind a buffer that it writes to read from, too. */
function check({ uses, values }: { uses: Use[]; values: Value[] }): void {
  let pairs = 0;
  for (const [i, a] of values.entries()) {
    assert.ok(a.offset % 256 === 0 && a.offset + a.size <= a.slab!.size && a.size >= a.bytes);
    for (const b of values.slice(0, i)) {
      if (a.slab !== b.slab || a.first > b.last || b.first > a.last) continue;
      assert.ok(a.offset >= b.offset + b.size || b.offset >= a.offset + a.size, `${a.offset}+${a.size} and ${b.offset}+${b.size}`);
      pairs++;
    }
  }
  assert.ok(pairs > 0, 'values share a buffer while both are needed');
  for (const { reads, writes } of uses) for (const read of reads) for (const write of writes) assert.is.not(read.slab, write.slab);
}

test('random steps: nothing that is needed is overwritten, no buffer is read and written at once, little is wasted', () => {
  for (let seed = 0; seed < 40; seed++) {
    const arena = new Arena();
    for (const rows of [1000, 400, 1100]) {
      const made = step(seed, 3 + (seed % 6), rows);
      arena.plan(made.uses);
      check(made);
    }
    const total = arena.sizes.reduce((sum, size) => sum + size, 0);
    assert.ok(total >= arena.most && total < 1.5 * arena.most, `${total} bytes for ${arena.most}, though the largest came last`);
  }
});

test('on paper, buffers for all steps are planned at once: they waste less, and the device needs no others', () => {
  for (let seed = 0; seed < 10; seed++) {
    const steps = () => [300, 1000, 640, 1024, 128].map((rows, i) => step(seed + (i % 2), 4, rows));
    const { sizes, most } = onPaper(() => {
      const planned = new Arena();
      for (const { uses } of steps()) planned.plan(uses);
      return { sizes: planned.sizes, most: planned.most };
    });
    const bytes = sizes.reduce((sum, size) => sum + size, 0);
    assert.ok(bytes >= most && bytes < 1.15 * most, `${bytes} bytes for ${most}`);
    const arena = new Arena();
    arena.reserve(sizes);
    for (const made of steps().reverse()) {
      arena.plan(made.uses);
      check(made);
    }
    assert.equal(arena.sizes, sizes);
  }
});

test('a buffer is no larger than the device makes them', () => {
  const { uses, values } = step(7, 6, 400);
  const arena = new Arena(2 ** 20);
  arena.plan(uses);
  check({ uses, values });
  assert.ok(arena.sizes.every((size) => size <= 2 ** 20));
});

test('what is held is needed to the end of its step', () => {
  const [a, b, c] = [1, 2, 3].map(() => new Value(1024)) as [Value, Value, Value];
  b.held = c.held = false;
  const arena = new Arena();
  arena.plan([{ reads: [], writes: [a] }, { reads: [], writes: [b] }, { reads: [], writes: [c] }]);
  assert.is(arena.most, 2048);
  assert.equal([b.slab, b.offset], [c.slab, c.offset]);
  assert.ok(a.slab !== b.slab || a.offset !== b.offset);
});

test.run();
