import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { longestOf } from '../../src/train/micro_batches.ts';

test('the longest of more rows than a call takes arguments', () => {
  const rows = Array.from({ length: 300_000 }, (_, i) => ({ length: i === 123_456 ? 9 : i % 7 }));
  assert.is(longestOf(rows), 9);
  assert.is(longestOf([]), 0);
});

test.run();
