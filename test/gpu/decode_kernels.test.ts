import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { HeadShape } from '../../src/gpu/ops/attention.ts';
import { readsTextures } from '../../src/gpu/mirror.ts';
import { attentionDecode, cacheWrite, decodeAdvance, decodeInput, layerCache } from '../../src/gpu/ops/decode.ts';
import { NONE } from '../../src/gpu/ops/gather.ts';
import { copy, copyToMirror, record } from '../../src/gpu/program.ts';
import { download, persistent, readFloats, upload, vector } from '../../src/gpu/tensor.ts';
import { attentionOf } from '../../src/self_test/reference/attention.ts';
import {
  assertClose,
  closeAfterTests,
  column,
  compute,
  matrix,
  onEachVariant,
  openForTests,
  seeded,
} from './device.ts';

test.before(openForTests);
test.after(closeAfterTests);

const SHAPES: HeadShape[] = [
  { heads: 4, kvHeads: 2, headDim: 8 },
  { heads: 3, kvHeads: 3, headDim: 10 },
  { heads: 4, kvHeads: 1, headDim: 16 },
];
const LENGTH = 140;
const SLOTS = 5;

/** Fills caches with rows' keys and values, then asks each row's last query. `rows` maps slots to qkv. */
async function lastQueries(shape: HeadShape, slots: number[], rows: Map<number, Float32Array>) {
  const { heads, kvHeads, headDim } = shape;
  const cols = (heads + 2 * kvHeads) * headDim;
  const width = kvHeads * headDim;
  const cache = layerCache(SLOTS * LENGTH, shape, 'f32');
  // What is not written must not be read.
  for (const t of [cache.keys, cache.values]) upload(t, new Float32Array(SLOTS * LENGTH * width).fill(1e6));
  const { textures } = cache;
  assert.is(textures !== undefined, readsTextures() && headDim % 4 === 0);
  const all: number[] = [];
  const slotOf: number[] = [];
  const at: number[] = [];
  for (const [slot, qkv] of rows) {
    for (let t = 0; t * cols < qkv.length; t++) {
      slotOf.push(slot);
      at.push(t);
    }
    all.push(...qkv);
  }
  all.push(...new Array(cols).fill(NaN)); // a padding token: no slot
  const last = slots.map((s) => rows.get(s)?.slice(-cols) ?? new Float32Array(cols).fill(3));
  const positions = slots.map((s) => (rows.get(s) ? rows.get(s)!.length / cols - 1 : 0));
  const out = persistent(slots.length, heads * headDim);
  const [tokens, queries] = [
    matrix(all, cols),
    matrix(
      last.flatMap((q) => [...q]),
      cols,
    ),
  ];
  const [tokenSlots, tokenPositions] = [column([...slotOf, NONE], 'u32'), column([...at, 0], 'u32')];
  const [querySlots, queryPositions] = [column(slots, 'u32'), column(positions, 'u32')];
  const [o] = await compute(() => {
    if (textures) {
      copyToMirror(cache.keys, textures.keys);
      copyToMirror(cache.values, textures.values);
    }
    cacheWrite(tokens, shape, tokenSlots, tokenPositions, cache, LENGTH);
    copy(attentionDecode(queries, shape, querySlots, queryPositions, cache, LENGTH), out);
  }, [out]);
  return { o, cache };
}

for (const shape of SHAPES) {
  test(`${shape.heads}/${shape.kvHeads} heads of ${shape.headDim}: a query over its cache equals whole attention`, () =>
    onEachVariant(async (variant) => {
      const { heads, kvHeads, headDim } = shape;
      const cols = (heads + 2 * kvHeads) * headDim;
      const random = seeded(headDim);
      const lengths = new Map([
        [3, 1],
        [0, 7],
        [4, 65],
        [1, LENGTH],
      ]);
      const rows = new Map([...lengths].map(([slot, length]) => [slot, random.normals(length * cols)]));
      const order = [1, NONE, 4, 0, 3];
      const { o, cache } = await lastQueries(shape, order, rows);
      const width = heads * headDim;
      for (const [i, slot] of order.entries()) {
        const got = o.subarray(i * width, (i + 1) * width);
        if (slot === NONE) {
          assert.ok(
            got.every((x) => x === 0),
            `${variant}: a row without a slot gives zeros`,
          );
          continue;
        }
        const qkv = rows.get(slot)!;
        const want = attentionOf(qkv, shape, [{ first: 0, length: lengths.get(slot)! }]).slice(-width);
        assertClose(got, want, `${variant}, ${lengths.get(slot)} tokens`, 2e-6);
        const alone = await lastQueries(shape, [slot], new Map([[slot, qkv]]));
        assert.equal([...alone.o], [...got], `${variant}: the same bits alone`);
      }
      const keys = await readFloats(cache.keys);
      const kv = kvHeads * headDim;
      const written = rows.get(4)!;
      for (let head = 0; head < kvHeads; head++) {
        const to = ((4 * kvHeads + head) * LENGTH + 9) * headDim;
        const from = 9 * cols + width + head * headDim;
        assert.equal([...keys.subarray(to, to + headDim)], [...written.subarray(from, from + headDim)], `keys of head ${head} as they were`);
      }
      assert.ok(
        keys.subarray(2 * LENGTH * kv, 3 * LENGTH * kv).every((x) => x === 1e6),
        'an idle slot stays as it was',
      );
    }));
}

test('a step takes token, position and key from each row’s slot', async () => {
  const state = matrix([10, 4, 7, 8, 9, 2, 3, 0, 20, 5, 17, 18, 19, 12, 13, 0, 30, 6, 27, 28, 29, 22, 23, 1], 8, 'u32');
  const input = { ids: vector(3), positions: vector(3), keys: persistent(3, 4) };
  const program = await record(() => decodeInput(column([2, NONE, 0], 'u32'), state, input)).ready();
  program.run();
  const [ids, positions, keys] = (await download(input.ids, input.positions, input.keys)).map((b) => [
    ...new Uint32Array(b),
  ]);
  assert.equal(ids, [30, 0, 10]);
  assert.equal(positions, [6, 0, 4]);
  assert.equal(keys, [27, 28, 29, 22, 0, 0, 0, 0, 7, 8, 9, 2]);
});

test('drawn tokens move their slots on until an end token or the limit, and no further', async () => {
  // token, position, key ×3, draw number, drawn, finished
  const slot = (at: number, drawn: number, finished = 0): number[] => [1, at, 7, 8, 9, drawn, drawn, finished];
  const state = matrix([...slot(4, 0), ...slot(9, 2), ...slot(5, 1, 2), ...slot(6, 0), ...slot(3, 1), ...slot(8, 2)], 8, 'u32');
  const decode = {
    state,
    limits: column([3, 9, 9, 9, 2, 9], 'u32'),
    ends: column([50, 60], 'u32'),
    drawn: matrix(new Array(24).fill(99), 4, 'u32'),
  };
  const rows = column([0, 1, 2, NONE, 4, 5], 'u32');
  const next = column([11, 60, 13, 14, 15, NONE], 'u32');
  const program = await record(() => decodeAdvance(rows, next, decode)).ready();
  program.run();
  const [after, drawn] = (await download(state, decode.drawn)).map((b) => [...new Uint32Array(b)]);
  const at = (s: number): number[] => after.slice(8 * s, 8 * s + 8);
  assert.equal(at(0), [11, 5, 7, 8, 9, 1, 1, 0], 'goes on');
  assert.equal(at(1), [60, 10, 7, 8, 9, 3, 3, 1], 'stops at the second end token, which it keeps');
  assert.equal(at(2), slot(5, 1, 2), 'was finished');
  assert.equal(at(3), slot(6, 0), 'has no row');
  assert.equal(at(4), [15, 4, 7, 8, 9, 2, 2, 2], 'reaches its limit');
  assert.equal(at(5), slot(8, 2, 3), 'had nothing to draw');
  assert.equal(drawn, [11, 99, 99, 99, 99, 99, 60, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 15, 99, 99, 99, 99, 99, 99]);
});

test.run();
