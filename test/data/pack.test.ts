import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { packAll, type PackedRow } from '../../src/data/pack.ts';

const plain = (rows: PackedRow[]) => rows.map(({ ids, segments }) => ({ ids: [...ids], segments }));

test('documents follow one another and are cut at the context', () => {
  const rows = packAll([[1, 5, 2], [1, 6, 7, 8, 9, 10, 2], [1, 2]], 4);
  assert.equal(plain(rows), [
    { ids: [1, 5, 2, 1], segments: [[0, 3], [3, 1]] },
    { ids: [6, 7, 8, 9], segments: [[0, 4]] },
    { ids: [10, 2, 1, 2], segments: [[0, 2], [2, 2]] },
  ]);
});

test('a shorter last row is kept, a single token is not', () => {
  assert.equal(plain(packAll([[1, 5, 2]], 8)), [{ ids: [1, 5, 2], segments: [[0, 3]] }]);
  assert.equal(plain(packAll([[1, 5, 2]], 2)), [{ ids: [1, 5], segments: [[0, 2]] }]);
  assert.equal(packAll([], 4), []);
});

test('no token is lost or moved and segments cover each row', () => {
  const documents = Array.from({ length: 40 }, (_, d) => Array.from({ length: (d * 7) % 23 }, (_, t) => d * 100 + t));
  const rows = packAll(documents, 16);
  const tokens = documents.flat();
  const packed = rows.flatMap(({ ids }) => [...ids]);
  assert.ok(tokens.length - packed.length <= 1);
  assert.equal(packed, tokens.slice(0, packed.length));
  for (const { ids, segments } of rows) {
    let at = 0;
    for (const [start, length] of segments) {
      assert.is(start, at);
      // One document a segment, in its order.
      for (let t = 1; t < length; t++) assert.is(ids[start + t], ids[start] + t);
      at += length;
    }
    assert.is(at, ids.length);
  }
  assert.ok(rows.slice(0, -1).every(({ ids }) => ids.length === 16));
});

test('a context of one token is refused', () => {
  assert.throws(() => packAll([[1, 2]], 1), RangeError);
});

test.run();
