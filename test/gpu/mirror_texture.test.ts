// Which texture holds which mirror of a recorded step, and when.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Shape } from '../../src/gpu/mirror_layout.ts';
import { StepTexture, StepTextures } from '../../src/gpu/mirror_texture.ts';
import { closeAfterTests, openForTests, seeded } from './device.ts';

await openForTests();
test.after(closeAfterTests);

const texels = ({ width, rows, layers = 1 }: Shape): number => width * rows * layers;
const bytes = ({ shape, storage }: { shape: Shape; storage: string }): number => texels(shape) * (storage === 'f16' ? 8 : 16);

/** Mirrors as steps have them: each is needed for a few commands, some in panels, some of halves. */
function step(seed: number, rows: number): StepTexture[] {
  const random = seeded(seed);
  return Array.from({ length: 30 }, (_, i) => {
    const shape = i % 3 === 0 ? { width: 8, rows, layers: 1 + random.below(16) } : { width: 128, rows: 1 + random.below(rows) };
    const mirror = new StepTexture(shape, i % 5 === 0 ? 'f16' : 'f32');
    mirror.first = 3 * i;
    mirror.last = mirror.first + 1 + random.below(8);
    return mirror;
  });
}

/** Each lies in a texture that is large enough for it, and none when another does. */
function check(mirrors: readonly StepTexture[]): void {
  for (const one of mirrors) {
    const { shape, storage } = one.place!;
    const { width, rows, layers } = one.shape;
    assert.is(storage, one.storage);
    assert.is(shape.layers === undefined, layers === undefined);
    assert.ok(shape.width >= width && shape.rows >= rows && (shape.layers ?? 1) >= (layers ?? 1));
    if (layers === undefined) assert.is(shape.width, width, 'a row begins where the one before ends');
    for (const other of mirrors) {
      if (other !== one && other.place === one.place) assert.ok(other.last < one.first || one.last < other.first, 'both are needed at once');
    }
  }
}

const mostAtOnce = (mirrors: readonly StepTexture[]): number =>
  Math.max(...mirrors.map(({ first }) => mirrors.filter((m) => m.first <= first && m.last >= first).reduce((sum, m) => sum + bytes(m), 0)));

test('random steps, the largest first: later ones find room, and each mirror has a texture to itself while it is needed', () => {
  for (let seed = 0; seed < 30; seed++) {
    const textures = new StepTextures(false);
    let before = 0;
    for (const rows of [64, 40, 64, 9]) {
      const made = step(seed, rows);
      textures.plan(made);
      check(made);
      if (rows === 9) assert.is(textures.shapes.length, before, 'a small step opens none');
      before = textures.shapes.length;
    }
    assert.is(textures.bytes, textures.shapes.reduce((sum, shape) => sum + bytes(shape), 0));
  }
});

test('on paper, textures for all steps are planned at once: they take little more than is needed at once, and the device needs no others', () => {
  const ratios: number[] = [];
  for (let seed = 0; seed < 30; seed++) {
    const steps = () => [30, 64, 50].map((rows, i) => step(seed + i, rows));
    const planned = new StepTextures(true);
    const onPaper = steps();
    for (const made of onPaper) planned.plan(made);
    const { shapes } = planned;
    ratios.push(planned.bytes / Math.max(...onPaper.map(mostAtOnce)));
    const textures = new StepTextures(false);
    textures.reserve(shapes);
    for (const made of steps().reverse()) {
      textures.plan(made);
      check(made);
    }
    assert.equal(textures.shapes, shapes);
  }
  const mean = ratios.reduce((sum, ratio) => sum + ratio, 0) / ratios.length;
  assert.ok(Math.min(...ratios) >= 1 && mean < 1.8, `${mean}`);
});

test.run();
