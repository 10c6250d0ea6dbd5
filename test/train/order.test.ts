import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BatchOrder } from '../../src/train/order.ts';

const sorted = (items: number[]): number[] => [...items].sort((a, b) => a - b);

test('every epoch passes over all items once, in its own order; its last batch may be smaller', () => {
  const order = new BatchOrder(43, 8, 3, { shuffle: true, seed: 1 });
  assert.is(order.perEpoch, 6);
  assert.is(order.totalSteps, 18);
  const epochs = [0, 1, 2].map((epoch) => [0, 1, 2, 3, 4, 5].map((i) => order.batch(6 * epoch + i)));
  for (const epoch of epochs) {
    assert.equal(
      epoch.map((b) => b.length),
      [8, 8, 8, 8, 8, 3],
    );
    assert.equal(sorted(epoch.flat()), [...Array(43).keys()]);
  }
  assert.is.not(epochs[0].flat().join(), epochs[1].flat().join());
  assert.is.not(epochs[1].flat().join(), epochs[2].flat().join());
});

test('a batch is a function of the seed and the step: a resumed run needs no state', () => {
  const steps = [...Array(12).keys()];
  const run = new BatchOrder(10, 4, 4, { shuffle: true, seed: 7 });
  const whole = steps.map((s) => run.batch(s));
  for (const s of [11, 5, 0, 7]) {
    assert.equal(new BatchOrder(10, 4, 4, { shuffle: true, seed: 7 }).batch(s), whole[s]);
    assert.equal(run.batch(s), whole[s], 'also when steps are asked for out of order');
  }
  assert.is.not(new BatchOrder(10, 4, 4, { shuffle: true, seed: 8 }).batch(0).join(), whole[0].join());
});

test('without shuffling the order is the given one', () => {
  const order = new BatchOrder(5, 2, 2, { shuffle: false, seed: 1 });
  assert.equal(
    [0, 1, 2, 3].map((s) => order.batch(s)),
    [[0, 1], [2, 3], [4], [0, 1]],
  );
});

test('parts of an epoch, batches larger than the data, one item', () => {
  assert.is(new BatchOrder(100, 10, 0.5, { shuffle: true, seed: 1 }).totalSteps, 5);
  assert.is(new BatchOrder(100, 10, 0.01, { shuffle: true, seed: 1 }).totalSteps, 1);
  const small = new BatchOrder(3, 32, 2, { shuffle: true, seed: 1 });
  assert.is(small.totalSteps, 2);
  assert.equal(sorted(small.batch(1)), [0, 1, 2]);
  assert.equal(new BatchOrder(1, 1, 1, { shuffle: true, seed: 1 }).batch(0), [0]);
});

test.run();
