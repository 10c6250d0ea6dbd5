import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { attentionTile, splitOf } from '../../src/gpu/ops/attention_forms.ts';
import { NONE } from '../../src/gpu/ops/gather.ts';
import { withSubgroup } from '../../src/gpu/device.ts';
import { BatchTensors, bucket, packRows, type PackRow } from '../../src/model/batch.ts';
import type { ModelConfig } from '../../src/model/config.ts';
import { download } from '../../src/gpu/tensor.ts';
import { closeAfterTests, onEachVariant, openForTests } from '../gpu/device.ts';
import { load } from './golden.ts';

test.before(openForTests);
test.after(closeAfterTests);

const config = (): ModelConfig => load('llama-tiny', {}).config;
const rowOf = (length: number, first = 1): PackRow => ({
  ids: Array.from({ length }, (_, i) => first + i),
  at: length > 1 ? [0, length - 2] : [0],
});

test('rows lie one after the other; positions restart, picks point into the pack, not into padding', () => {
  const rows: PackRow[] = [
    { ids: [5, 6, 7], at: [1, 2], targets: [7, 9], weights: [0.5, 0.25], weights2: [0, 1], key: 40 },
    { ids: [8], at: [] },
    {
      ids: [1, 2, 3, 4],
      segments: [
        [0, 1],
        [1, 3],
      ],
      at: [3],
      key: 7,
    },
  ];
  const batch = packRows(rows, config());
  assert.equal([batch.tokens, batch.picks, batch.shape.tokens, batch.shape.picks], [8, 3, 32, 32]);
  assert.equal([...batch.ids.subarray(0, 10)], [5, 6, 7, 8, 1, 2, 3, 4, 0, 0]);
  assert.equal([...batch.positions.subarray(0, 10)], [0, 1, 2, 0, 0, 0, 1, 2, 0, 1]);
  assert.equal([...batch.index.subarray(0, 4)], [1, 2, 7, NONE]);
  assert.equal([...batch.inverse.subarray(0, 9)], [NONE, 0, 1, NONE, NONE, NONE, NONE, 2, NONE]);
  assert.equal([...batch.targets.subarray(0, 4)], [7, 9, 0, 0]);
  assert.equal([...batch.weights.subarray(0, 8)], [0.5, 0, 0.25, 1, 0, 0, 0, 0]);
  assert.equal(batch.firstPick, [0, 2, 2]);
  assert.equal([...batch.keys.subarray(0, 6)], [40, 0, 40, 1, 40, 2]);
});

test('attention tiles cover every token once, never across rows or segments', () =>
  onEachVariant(async (variant) => {
    const cfg = config();
    const tile = attentionTile();
    for (const lengths of [[1], [3, 17, 31], [40, 16, 2, 33]]) {
      const batch = packRows(
        lengths.map((n) => rowOf(n)),
        cfg,
      );
      const seen = new Array<number>(batch.shape.tokens).fill(0);
      for (let i = 0; i < batch.tiles.length; i += 4) {
        const [first, length, query] = batch.tiles.subarray(i, i + 3);
        for (let t = query; t < Math.min(length, query + tile); t++) {
          seen[first + t]++;
          assert.is(batch.positions[first + t], t, variant);
        }
      }
      assert.ok(
        seen.every((n) => n === 1),
        `${variant}, rows ${lengths}`,
      );
    }
  }));

test('sizes are rounded up to few buckets, and never below those asked for', () => {
  assert.equal([1, 32, 33, 256, 257, 1025, 8193].map(bucket), [32, 32, 64, 256, 320, 1152, 8704]);
  const sizes = new Set(Array.from({ length: 8192 }, (_, i) => bucket(i + 1)));
  assert.ok(sizes.size <= 80, `${sizes.size} sizes up to 8192`);
  const batch = packRows([rowOf(5)], config(), { tokens: 96, picks: 64, rows: 48 });
  assert.equal(batch.shape, { tokens: 96, picks: 64, rows: 48 });
});

test('a batch of any rows fits the tensors of its shape, also with short contexts and almost nothing but padding', () =>
  onEachVariant(async (variant) => {
    for (const context of [1, 2, 7, 10, 16, 33, 64, 100]) {
      const cfg = { ...config(), context };
      for (const tokens of [32, 256, 1024, 2048]) {
        const full = packRows(
          Array.from({ length: Math.ceil(tokens / context) }, () => rowOf(Math.min(context, tokens))),
          cfg,
        );
        new BatchTensors(full.shape, cfg, true).upload(full);
        const padding = packRows([rowOf(1)], cfg, full.shape);
        new BatchTensors(padding.shape, cfg, false).upload(padding);
        const own = packRows([rowOf(1)], cfg, { tokens, picks: 32, rows: 16 });
        assert.not.throws(
          () => new BatchTensors(own.shape, cfg, false).upload(own),
          `${variant}, context ${context}, ${tokens} tokens of padding`,
        );
      }
    }
  }));

test('tiles of an earlier, larger batch are gone after the next upload', async () => {
  const cfg = config();
  const large = packRows([rowOf(20), rowOf(30), rowOf(12)], cfg);
  const small = packRows([rowOf(3)], cfg, large.shape);
  const input = new BatchTensors(large.shape, cfg, true);
  input.upload(large);
  input.upload(small);
  const [tiles, runs] = (await download(input.tokens.tiles, input.tokens.idRuns!.runs)).map((b) => new Uint32Array(b));
  assert.equal([...tiles.subarray(0, small.tiles.length)], [...small.tiles]);
  assert.ok(tiles.subarray(small.tiles.length).every((x) => x === 0));
  assert.equal(
    [...runs.subarray(0, 16)],
    [1, 0, 1, 0, 2, 1, 2, 0, 3, 2, 3, 0, 0, 0, 0, 0],
    'padding tokens have no gradient',
  );
});

test('heads are split so that lanes hold each number once, a tile’s queries are covered once, and few registers are needed', () =>
  withSubgroup(0, async () => {
    for (const headDim of [1, 4, 10, 16, 20, 32, 48, 64, 80, 96, 128, 160, 256]) {
      for (const pass of ['attention', 'attention_grad_q', 'attention_grad_kv'] as const) {
        const { GROUP, OWN, QUERIES, LANES, KEYS, PARTS, AHEAD } = splitOf(pass, headDim);
        const vec4s = Math.ceil(headDim / 4);
        assert.ok(GROUP * OWN >= vec4s && GROUP * (OWN - 1) < vec4s, `heads of ${headDim}: ${GROUP} × ${OWN} vec4s`);
        assert.is((LANES / GROUP) * QUERIES * PARTS, attentionTile(), `${pass} of ${headDim}`);
        assert.ok(LANES <= 128 && LANES % GROUP === 0 && KEYS % 8 === 0 && KEYS % AHEAD === 0);
        const arrays = { attention: 2, attention_grad_q: 3, attention_grad_kv: 4 }[pass];
        assert.ok(arrays * QUERIES * OWN * 4 <= 128, `${pass} of ${headDim}: ${arrays * QUERIES * OWN * 4} numbers a lane`);
      }
    }
  }));

test.run();
