import { attentionOf } from './reference/attention.ts';
import { keeps } from './reference/dropout.ts';
import { filtered, inverseCdf, logSoftmax } from './reference/sampler.ts';
import type { HeadShape } from '../gpu/ops/attention.ts';
import { attentionDecode, cacheCopy, cacheWrite, decodeAdvance, decodeInput, layerCache } from '../gpu/ops/decode.ts';
import { dropoutAdd } from '../gpu/ops/dropout.ts';
import { NONE } from '../gpu/ops/gather.ts';
import { philox, uniform24 } from '../gpu/ops/random.ts';
import { sample, type SamplerSettings, samplerSettings } from '../gpu/ops/sampler.ts';
import { copy } from '../gpu/program.ts';
import { persistent, type Storage, type Tensor, vector } from '../gpu/tensor.ts';
import { type Check, close, inBoth, type KernelTest, roundingOf } from './check.ts';
import { column, compute, matrix, numbers, words } from './on_device.ts';

/** The mask must be the reference's number by number. The residual and the sum are always f32. */
async function checkDropout(storage: Storage): Promise<Check[]> {
  const [rows, cols, site, rate] = [37, 67, 5, 0.25];
  const { normals } = numbers(17, storage);
  const [x, residual] = [normals(rows * cols), normals(rows * cols)];
  const tokens = Array.from({ length: rows }, (_, i): [number, number] => [i * 977 + 3, i % 11]);
  const state: [number, number] = [4294967295, 17];
  const mask = {
    tokens: matrix(Uint32Array.from(tokens.flat()), 2, 2),
    state: column(Uint32Array.from(state)),
    site,
    rate,
  };
  const [X, R, out] = [matrix(x, cols, undefined, storage), matrix(residual, cols), persistent(rows, cols)];
  const [got] = await compute(() => dropoutAdd(X, R, out, mask), [out]);
  const expected = x.map((value, i) => {
    const kept = keeps(tokens[Math.floor(i / cols)], i % cols, site, state, rate);
    return residual[i] + (kept * value) / (1 - rate);
  });
  return [close('mask and sum', got, expected)];
}

const FILTERS: Partial<SamplerSettings>[] = [
  {},
  { temperature: 0 },
  { temperature: 0.5 },
  { topK: 5 },
  { topP: 0.75 },
  { temperature: 1.5, topK: 40, topP: 0.875 },
];

/** Every draw must lie where the reference's cumulative sum has the row's random number, to rounding. */
async function checkSampler(filter: Partial<SamplerSettings>): Promise<Check[]> {
  const settings = { temperature: 1, topK: 0, topP: 1, seed: 7, iteration: 3, ...filter };
  const [rows, vocabulary] = [64, 1003];
  const { normals } = numbers(18);
  const logits = normals(rows * vocabulary, 3);
  const keys = Array.from({ length: rows }, (_, i) => [i, i % 3, 2 * i, 0]);
  const io = {
    logits: matrix(logits, vocabulary),
    keys: matrix(Uint32Array.from(keys.flat()), 4),
    settings: column(samplerSettings(settings)),
    tokens: vector(rows),
    logprobs: vector(rows),
  };
  const [drawn, logprobs] = await compute(() => sample(io), [io.tokens, io.logprobs]);
  const tokens = words(drawn);
  let astray = 0;
  const expected = Array.from(tokens, (token, i) => {
    const row = logits.subarray(i * vocabulary, (i + 1) * vocabulary);
    const greedy = settings.temperature === 0;
    if (greedy) {
      if (token !== row.indexOf(Math.max(...row))) astray++;
    } else {
      const kept = filtered(row, settings.temperature, settings.topK, settings.topP);
      const u = uniform24(philox(keys[i], [settings.seed, settings.iteration])[0]);
      const slack = 2e-6; // cumulative sums of float32 numbers
      if (token < inverseCdf(kept, u - slack) || token > inverseCdf(kept, u + slack) || !(kept[token] > 0)) astray++;
    }
    return logSoftmax(row, greedy ? 1 : settings.temperature)[token];
  });
  const what = JSON.stringify(filter).replaceAll('"', '');
  return [close(`${what}: draws astray`, [astray], [0], 0), close(`${what}: log-probabilities`, logprobs, expected)];
}

/**
 * Keys and values written in two goes, and one slot's copied to another; then a query a slot: the last row of
 * the whole's attention.
 */
async function checkDecodeAttention(storage: Storage): Promise<Check[]> {
  const shape: HeadShape = { heads: 4, kvHeads: 2, headDim: 16 };
  const [slotCount, length] = [4, 100];
  const cols = (shape.heads + 2 * shape.kvHeads) * shape.headDim;
  const width = shape.heads * shape.headDim;
  const { normals } = numbers(19, storage);
  const rows = [
    [2, 70],
    [0, 1],
    [1, 23],
  ].map(([slot, tokens]) => ({ slot, tokens, qkv: normals(tokens * cols) }));
  const cache = layerCache(slotCount * length, shape, storage);
  const past = rows.flatMap(({ slot, tokens, qkv }) =>
    Array.from({ length: tokens - 1 }, (_, t) => ({ slot, t, qkv: qkv.subarray(t * cols, (t + 1) * cols) })),
  );
  const queries = [...rows, { ...rows[0], slot: 3 }];
  const integers = (values: number[]): Tensor => column(Uint32Array.from(values));
  const PAST = matrix(Float32Array.from(past.flatMap(({ qkv }) => [...qkv])), cols, undefined, storage);
  const LAST = matrix(
    Float32Array.from(queries.flatMap(({ tokens, qkv }) => [...qkv.subarray((tokens - 1) * cols)])),
    cols,
    undefined,
    storage,
  );
  const [pastSlots, pastPositions] = [integers(past.map(({ slot }) => slot)), integers(past.map(({ t }) => t))];
  const [slots, positions] = [
    integers(queries.map(({ slot }) => slot)),
    integers(queries.map(({ tokens }) => tokens - 1)),
  ];
  const PAIRS = matrix(Uint32Array.from([2, 3, 69, 0, 1, 3, 0, 0]), 4); // the second pair is unused
  const out = persistent(queries.length, width, undefined, storage);
  const [got] = await compute(() => {
    cacheWrite(PAST, shape, pastSlots, pastPositions, cache, length);
    cacheCopy(PAIRS, shape, cache, length, 69);
    cacheWrite(LAST, shape, slots, positions, cache, length);
    copy(attentionDecode(LAST, shape, slots, positions, cache, length), out);
  }, [out]);
  const expected = queries.flatMap(({ tokens, qkv }) => [
    ...attentionOf(qkv, shape, [{ first: 0, length: tokens }]).slice(-width),
  ]);
  return [close('last queries', got, expected, roundingOf(storage))];
}

/** Four slots: one goes on, one ends at an end token, one reaches its limit, one was finished; a row has no slot. */
async function checkDecodeState(): Promise<Check[]> {
  const END = 9;
  const state = Uint32Array.from(
    [
      [5, 10, 100, 200, 300, 4, 0, 0],
      [6, 11, 101, 201, 301, 5, 1, 0],
      [7, 12, 102, 202, 302, 6, 2, 0],
      [8, 13, 103, 203, 303, 7, 1, 1],
    ].flat(),
  );
  const rows = Uint32Array.from([3, 1, NONE, 0, 2]);
  const STATE = matrix(state, 8);
  const decode = {
    state: STATE,
    limits: column(Uint32Array.from([3, 3, 3, 3])),
    ends: column(Uint32Array.from([END, 77])),
    drawn: persistent(4, 4),
  };
  const input = { ids: vector(5), positions: vector(5), keys: persistent(5, 4) };
  const [ROWS, NEXT] = [column(rows), column(Uint32Array.from([40, END, 41, 42, 43]))];
  const got = await compute(() => {
    decodeInput(ROWS, STATE, input);
    decodeAdvance(ROWS, NEXT, decode);
  }, [input.ids, input.positions, input.keys, STATE, decode.drawn]);
  const [ids, positions, keys, after, drawn] = got.map(words);
  return [
    close('tokens fed', ids, [8, 6, 0, 5, 7], 0),
    close('positions', positions, [13, 11, 0, 10, 12], 0),
    close('keys', keys, [103, 203, 303, 7, 101, 201, 301, 5, 0, 0, 0, 0, 100, 200, 300, 4, 102, 202, 302, 6], 0),
    close(
      'state',
      after,
      [
        [42, 11, 100, 200, 300, 5, 1, 0],
        [END, 12, 101, 201, 301, 6, 2, 1],
        [43, 13, 102, 202, 302, 7, 3, 2],
        [8, 13, 103, 203, 303, 7, 1, 1],
      ].flat(),
      0,
    ),
    close('tokens drawn', drawn, [42, 0, 0, 0, 0, END, 0, 0, 0, 0, 43, 0, 0, 0, 0, 0], 0),
  ];
}

export const samplingTests: KernelTest[] = [
  ...inBoth('dropout', ['dropout', 'random'], checkDropout),
  {
    name: 'sampler',
    kernels: ['sampler', 'random'],
    run: async () => (await Promise.all(FILTERS.map(checkSampler))).flat(),
  },
  ...inBoth('attention_decode', ['attention_decode', 'cache_write', 'cache_copy'], checkDecodeAttention),
  { name: 'decode_state', kernels: ['decode_input', 'decode_advance'], run: checkDecodeState },
];
