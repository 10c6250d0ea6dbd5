// That recorded steps of many shapes take a bounded part of what the driver has: a long run would end in a crash of the driver.
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { kernel } from '../../src/gpu/kernel.ts';
import { deviceMemory } from '../../src/gpu/memory.ts';
import { onPaper } from '../../src/gpu/paper.ts';
import { launch, record, type Program } from '../../src/gpu/program.ts';
import { destroy, readFloats, upload, vector, type Tensor } from '../../src/gpu/tensor.ts';
import type { ModelConfig } from '../../src/model/config.ts';
import { generate } from '../../src/model/generate.ts';
import { newModel } from '../../src/model/load.ts';
import { MOST_DISPATCHES, Recent, recorded } from '../../src/model/recent.ts';
import { closeAfterTests, openForTests } from '../gpu/device.ts';

test.before(openForTests);
test.after(closeAfterTests);

const ADD = `
@group(0) @binding(0) var<storage, read_write> X: array<f32>;
@compute @workgroup_size(1)
fn main() {
  X[0] += 1.0;
}`;

/** A step that adds `dispatches` to a number of its own. */
const adding = (dispatches: number): Promise<Program<Tensor>> => {
  const x = vector(1);
  return record(() => {
    for (let i = 0; i < dispatches; i++) launch(kernel('add', ADD), [x], [], [1]);
    return x;
  }).ready();
};
const give = (made: Promise<Program<Tensor>>): void => void made.then((program) => {
  program.discard();
  destroy(program.result);
});
/** Mappings of the process's memory: Mesa's software driver has one for each bind group. */
const mappings = (): number => (existsSync('/proc/self/maps') ? readFileSync('/proc/self/maps', 'utf8').split('\n').length : 0);

test('steps of several kinds: together within the bound, the longest unused dropped, whatever its kind', () => onPaper(() => {
  const dropped: string[] = [];
  const kind = (name: string, limit = 64) => {
    const kept = new Recent<string>(limit, (value) => dropped.push(value));
    return (key: string, dispatches: number): string => kept.get(key, () => {
      void adding(dispatches);
      return name + key;
    });
  };
  const [one, other, few] = [kind('one'), kind('other'), kind('few', 2)];
  const part = MOST_DISPATCHES / 16;
  for (let i = 0; i < 8; i++) one(String(i), part);
  for (let i = 0; i < 8; i++) other(String(i), part);
  assert.equal(recorded(), { steps: 16, dispatches: MOST_DISPATCHES });
  assert.equal(dropped, []);
  assert.is(one('0', part), 'one0'); // used again: now one1 is the oldest
  other('8', 1);
  assert.equal(dropped, ['one1']);
  few('0', 1);
  few('1', 1);
  few('2', 1);
  assert.equal(dropped, ['one1', 'few0'], 'a kind has its own limit, too');
  one('huge', 3 * MOST_DISPATCHES);
  assert.is(recorded().steps, 8, 'the last steps stay however large they are');
  assert.is(one('huge', 0), 'onehuge');
  for (let i = 0; i < 8; i++) few(String(i), 1);
  for (let i = 0; i < 8; i++) other(String(i), 1);
  assert.is(dropped.at(-1), 'onehuge', 'and go when others have come');
  assert.ok(recorded().dispatches <= 8 * part);
}));

test('more than twice as many dispatches as are kept: what is dropped is given back, and what is recorded again gives its numbers', async () => {
  const kept = new Recent<Promise<Program<Tensor>>>(10_000, give);
  const before = mappings();
  let most = 0;
  for (let step = 0; step < 72; step++) {
    const program = await kept.get(String(step), () => adding(MOST_DISPATCHES / 32));
    upload(program.result, Float32Array.of(step));
    program.run();
    assert.equal([...await readFloats(program.result)], [step + MOST_DISPATCHES / 32]);
    most = Math.max(most, mappings() - before);
  }
  assert.ok(recorded().dispatches <= MOST_DISPATCHES);
  // 8,192 bind groups may wait for the collector; left to itself it lets nearly all pile up.
  assert.ok(most < MOST_DISPATCHES + 8192 + 2048, `${most} more mappings`);
  const again = await kept.get('0', () => adding(3));
  again.run();
  assert.equal([...await readFloats(again.result)], [3]);
  kept.clear();
  assert.is(kept.size, 0);
});

test('answers one after the other leave nothing behind on the device', async () => {
  const config: ModelConfig = {
    family: 'llama', vocabSize: 300, width: 32, layers: 2, heads: 2, kvHeads: 2, headDim: 16, hidden: 64, context: 64, norm: 'rms',
    normEps: 1e-5, positions: 'rope', ropeTheta: 10000, activation: 'silu', gated: true, bias: { qkv: false, attnOut: false, mlp: false },
    tied: true, bosId: 0, eosId: 1, padId: 2, initializerRange: 0.02,
  };
  const { decoder } = newModel(config, 0, false);
  const draw = { temperature: 1, topK: 0, topP: 1, seed: 0, iteration: 0 };
  const answer = async (prompt: number, samples: number): Promise<void> => {
    const requests = Array.from({ length: samples }, (_, sample) =>
      ({ prompt: [prompt, 7, 8], row: 0, sample, maxNewTokens: 20 }));
    // As where a reader goes away, the second time around.
    for await (const { ids } of generate(decoder, requests, draw, { slots: 4, ends: [1] })) if (ids.length > 0 && samples === 5) break;
    await new Promise((resolve) => setTimeout(resolve));
  };
  await answer(5, 4);
  await answer(5, 5);
  const [live, steps] = [deviceMemory().live, recorded().steps];
  for (let turn = 0; turn < 4; turn++) {
    await answer(10 + turn, 4);
    await answer(20 + turn, 5);
  }
  assert.is(deviceMemory().live, live);
  assert.is(recorded().steps, steps);
});

test.run();
