import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { attentionTile } from '../../src/gpu/ops/attention.ts';
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
    const { lanes, queries } = attentionTile(cfg.headDim);
    for (const lengths of [[1], [3, 17, 31], [40, 16, 2, 33]]) {
      const batch = packRows(
        lengths.map((n) => rowOf(n)),
        cfg,
      );
      const seen = new Array<number>(batch.shape.tokens).fill(0);
      for (let i = 0; i < batch.tiles.length; i += 4) {
        const [first, length, query] = batch.tiles.subarray(i, i + 3);
        for (let t = query; t < Math.min(length, query + lanes * queries); t++) {
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

test('tiles suit the device: keys of a step fit 20 KiB of workgroup memory and what the device has, in steps of 8', () =>
  withSubgroup(0, async () => {
    for (const headDim of [4, 10, 16, 64, 80, 128, 256]) {
      const { lanes, queries, keys } = attentionTile(headDim);
      assert.ok(lanes === 64 && keys % 8 === 0 && keys >= 8 && queries === 1);
      if (headDim <= 128)
        assert.ok(keys * (2 * 16 * Math.ceil(headDim / 4) + 8) <= 20480, `${keys} keys for heads of ${headDim}`);
    }
  }));

test.run();
