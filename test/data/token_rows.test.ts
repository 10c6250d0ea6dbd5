import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { packAll } from '../../src/data/pack.ts';
import { TokenRows } from '../../src/data/token_rows.ts';
import type { PackRow } from '../../src/model/batch.ts';
import { Demonstrations, Documents, PackedDemonstrations } from '../../src/stages/likelihood_rows.ts';
import { RankingRows, type EncodedRanking } from '../../src/stages/ranking_rows.ts';
import { seeded } from '../gpu/device.ts';

const plain = ({ ids, segments, at, targets, key }: PackRow) =>
  ({ ids: [...Array.from(ids)], segments: segments?.map(([start, length]) => [start, length]), at: Array.from(at), targets: Array.from(targets!), key });

test('rows come back as they were added, across chunks, rows longer than a chunk and empty ones included', () => {
  const { below } = seeded(7);
  const rows = new TokenRows();
  const added: { ids: Int32Array; marks: Uint8Array }[] = [];
  const lengths = [...Array.from({ length: 600 }, () => below(9000)), 0, 2 ** 20 + 5, 1, 2 ** 20, 0, 3];
  for (const length of lengths) {
    const row = { ids: Int32Array.from({ length }, () => below(2 ** 31)), marks: Uint8Array.from({ length }, () => below(2)) };
    rows.add(row.ids, row.marks);
    added.push(row);
  }
  assert.ok(rows.tokens > 4 * 2 ** 20, 'several chunks were filled');
  assert.is(rows.length, lengths.length);
  assert.is(rows.tokens, lengths.reduce((sum, n) => sum + n, 0));
  added.forEach((row, i) => {
    assert.is(rows.size(i), row.ids.length);
    const { ids, marks } = rows.at(i);
    assert.ok(Buffer.from(ids.buffer, ids.byteOffset, ids.byteLength).equals(Buffer.from(row.ids.buffer)), `ids of row ${i}`);
    assert.ok(Buffer.from(marks.buffer, marks.byteOffset, marks.byteLength).equals(Buffer.from(row.marks.buffer)), `marks of row ${i}`);
  });
  assert.equal([...rows.all()].map(({ length }) => length), lengths);
  for (const row of [-1, rows.length, 0.5]) assert.throws(() => rows.at(row), RangeError);
});

test('a demonstration’s marked tokens are learnt, each from the place before it', () => {
  const rows = new Demonstrations();
  rows.add({ ids: Int32Array.of(5, 6, 7, 8, 2), mask: Uint8Array.of(0, 0, 1, 1, 1) });
  rows.add({ ids: Int32Array.of(9, 4, 2, 3), mask: Uint8Array.of(0, 1, 0, 1) });
  assert.equal([...rows].map(plain), [
    { ids: [5, 6, 7, 8, 2], segments: undefined, at: [1, 2, 3], targets: [7, 8, 2], key: 0 },
    { ids: [9, 4, 2, 3], segments: undefined, at: [0, 2], targets: [4, 3], key: 1 },
  ]);
});

test('packed demonstrations: in order, as many a row as the context holds, each a segment with its own picks', () => {
  const { below } = seeded(11);
  const context = 32;
  const one = new Demonstrations();
  for (let i = 0; i < 200; i++) {
    const length = 2 + below(context - 1);
    one.add({ ids: Int32Array.from({ length }, () => below(1000)), mask: Uint8Array.from({ length }, (_, t) => (t > 0 ? below(2) : 0)) });
  }
  const packed = new PackedDemonstrations(one, context);
  assert.is(packed.tokens, one.tokens);
  assert.ok(packed.length < one.length && packed.length > 1);
  let next = 0;
  [...packed].forEach((row, r) => {
    assert.is(row.key, r);
    assert.is(row.ids.length, packed.size(r));
    assert.ok(row.ids.length <= context);
    const picks: number[] = [];
    let start = 0;
    for (const [first, length] of row.segments!) {
      const alone = one.at(next++);
      assert.equal([first, length], [start, alone.ids.length]);
      assert.equal(Array.from(row.ids).slice(start, start + length), Array.from(alone.ids));
      picks.push(...Array.from(alone.at, (t) => t + start));
      start += length;
    }
    assert.is(start, row.ids.length);
    assert.equal(Array.from(row.at), picks);
    assert.equal(Array.from(row.targets!), picks.map((t) => row.ids[t + 1]));
    if (next < one.length) assert.ok(start + one.size(next) > context, 'the next one would not have fitted');
  });
  assert.is(next, one.length);
});

test('documents are cut as packing cuts them; all tokens are learnt but the first of a part', () => {
  const { below } = seeded(13);
  const documents = Array.from({ length: 60 }, () => Array.from({ length: below(40) }, () => below(500)));
  const rows = new Documents(24);
  for (const document of documents) rows.add(document);
  rows.end();
  const expected = packAll(documents, 24).map(({ ids, segments }, key) => {
    const at = segments.flatMap(([start, length]) => Array.from({ length: Math.max(0, length - 1) }, (_, i) => start + i));
    return { ids: [...ids], segments, at, targets: at.map((t) => ids[t + 1]), key };
  });
  assert.ok(expected.some(({ segments }) => segments.length > 2) && expected.some(({ segments }) => segments.length === 1));
  assert.equal([...rows].map(plain), expected);
});

test('rankings come back with their own responses; the best of each are found, ties included', () => {
  const of = (...texts: number[][]): Int32Array[] => texts.map((ids) => Int32Array.from(ids));
  const added: EncodedRanking[] = [
    { responses: of([1, 2], [1, 3, 2]), ranks: [2, 1], margin: 0.5 },
    { responses: of([4], [4, 5], [4, 6, 7]), ranks: [1, 3, 1], margin: 0 },
    { responses: of([8], [9]), ranks: [1, 1], margin: 0 },
  ];
  const rows = new RankingRows();
  rows.add(added[2]);
  assert.not.ok(rows.hasStrictPair(), 'ties alone');
  for (const ranking of added) rows.add(ranking);
  assert.ok(rows.hasStrictPair());
  assert.equal([...rows], [added[2], ...added]);
  assert.is(rows.tokens, 2 + 5 + 6 + 2);
  assert.equal([...rows.best()].map((ids) => [...ids]), [[8], [9], [1, 3, 2], [4], [4, 6, 7], [8], [9]]);
});

test.run();
