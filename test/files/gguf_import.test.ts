import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Tokenizer } from '@huggingface/tokenizers';
import { UsageError } from '../../src/errors.ts';
import { importGguf } from '../../src/files/gguf_import.ts';
import { shortestFloat } from '../../src/files/gguf_metadata.ts';
import { ggufPlace, reorderRotary, transpose } from '../../src/files/gguf_names.ts';
import { writeGguf, type GgufEntry, type NewGgufTensor } from '../../src/files/gguf_write.ts';
import { openModel, type ModelFolder } from '../../src/files/model_folder.ts';
import { MODELS, temporaryFolder } from './temporary.ts';

const dir = temporaryFolder();
type Json = Record<string, unknown>;

/** A byte-level BPE vocabulary of `size` tokens: three special ones, letters, digits, and one merge. */
function tokenizerEntries(size: number, pre: string): GgufEntry[] {
  const tokens = ['<|end|>', '<|im_start|>', '<|im_end|>', ...'abcdefghijklmnopqrstuvwxyz0123456789Ġ', 'ab'];
  while (tokens.length < size) tokens.push(`[PAD${tokens.length}]`);
  return [
    { key: 'tokenizer.ggml.model', type: 'string', value: 'gpt2' },
    { key: 'tokenizer.ggml.pre', type: 'string', value: pre },
    { key: 'tokenizer.ggml.tokens', type: 'string[]', value: tokens },
    { key: 'tokenizer.ggml.token_type', type: 'i32[]', value: tokens.map((_, i) => (i < 3 ? 3 : i < 41 ? 1 : 5)) },
    { key: 'tokenizer.ggml.merges', type: 'string[]', value: ['a b'] },
    { key: 'tokenizer.ggml.bos_token_id', type: 'u32', value: 1 },
    { key: 'tokenizer.ggml.eos_token_id', type: 'u32', value: 2 },
    { key: 'tokenizer.ggml.padding_token_id', type: 'u32', value: 2 },
    { key: 'tokenizer.chat_template', type: 'string', value: '{{ messages[0].content }}' },
  ];
}

function modelEntries(model: ModelFolder): GgufEntry[] {
  const c = model.config;
  const u32 = (name: string, value: number): GgufEntry => ({ key: `${c.family}.${name}`, type: 'u32', value });
  const f32 = (name: string, value: number): GgufEntry => ({ key: `${c.family}.${name}`, type: 'f32', value });
  const shared = [
    { key: 'general.architecture', type: 'string', value: c.family } as const,
    u32('block_count', c.layers),
    u32('context_length', c.context),
    u32('embedding_length', c.width),
    u32('feed_forward_length', c.hidden),
    u32('attention.head_count', c.heads),
  ];
  return c.family === 'gpt2'
    ? [...shared, f32('attention.layer_norm_epsilon', c.normEps)]
    : [
        ...shared,
        u32('attention.head_count_kv', c.kvHeads),
        f32('attention.layer_norm_rms_epsilon', c.normEps),
        f32('rope.freq_base', c.ropeTheta),
      ];
}

function tensorsFor(model: ModelFolder): NewGgufTensor[] {
  return model.plan.map((planned) => {
    const { name, shape, change } = ggufPlace(planned, model.config);
    const values = model.read(planned.name);
    const data =
      change === 'transpose'
        ? transpose(values, planned.shape[0]!, planned.shape[1]!)
        : change === 'rotary'
          ? reorderRotary(values, model.config.headDim, planned.shape[1]!, 'gguf')
          : values;
    return { name, shape, type: 'F32', data };
  });
}

for (const name of ['llama-tiny', 'qwen2-tiny', 'gpt2-tiny']) {
  test(`${name} written as GGUF and imported is the same model`, async () => {
    const model = openModel(join(MODELS, name));
    const path = join(dir, `${name}.gguf`);
    await writeGguf(
      path,
      [...modelEntries(model), ...tokenizerEntries(model.config.vocabSize, 'smollm')],
      tensorsFor(model),
    );
    const out = join(dir, name);
    await importGguf(path, out);
    const imported = openModel(out, { kind: 'lm' });
    assert.equal(imported.config, { ...model.config, bosId: 1, eosId: 2, padId: 2 });
    for (const { name: tensor } of model.plan) assert.equal(imported.read(tensor), model.read(tensor), tensor);
  });
}

test("query rows are interleaved in llama.cpp's order", () => {
  // One head of 6 rows: halves (0 1 2) and (3 4 5) become the pairs (0 3) (1 4) (2 5); the second head follows.
  const rows = Float32Array.from({ length: 12 }, (_, i) => i);
  const gguf = reorderRotary(rows, 6, 1, 'gguf');
  assert.equal([...gguf], [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
  assert.equal(reorderRotary(gguf, 6, 1, 'hf'), rows);
  const wide = Float32Array.from({ length: 24 }, (_, i) => i);
  assert.equal([...reorderRotary(wide, 4, 3, 'gguf').subarray(0, 9)], [0, 1, 2, 6, 7, 8, 3, 4, 5]);
});

test('the rebuilt tokenizer merges, splits digits, and knows its special tokens and template', () => {
  const read = (file: string) => JSON.parse(readFileSync(join(dir, 'llama-tiny', file), 'utf8')) as Json;
  const settings = read('tokenizer_config.json');
  const tokenizer = new Tokenizer(read('tokenizer.json'), settings);
  const tokens = ['<|im_start|>', 'ab', 'c', 'Ġ', 'ab', '1', '2', '<|im_end|>'];
  assert.equal(tokenizer.encode('<|im_start|>abc ab12<|im_end|>').tokens, tokens);
  assert.equal(
    [settings['bos_token'], settings['eos_token'], settings['pad_token']],
    ['<|im_start|>', '<|im_end|>', '<|im_end|>'],
  );
  assert.is(settings['chat_template'], '{{ messages[0].content }}');
  const added = read('tokenizer.json')['added_tokens'] as Array<{ id: number; special: boolean }>;
  assert.equal(
    added.map(({ id, special }) => [id, special]),
    [
      [0, true],
      [1, true],
      [2, true],
    ],
  );
});

test('what is not supported or malformed is named, and nothing is written', async () => {
  const model = openModel(join(MODELS, 'llama-tiny'));
  const entries = [...modelEntries(model), ...tokenizerEntries(101, 'smollm')];
  const tensors = tensorsFor(model);
  const refused = async (metadata: GgufEntry[], all: NewGgufTensor[], pattern: RegExp) => {
    const path = join(dir, 'bad.gguf');
    await writeGguf(path, metadata, all);
    const error = await importGguf(path, join(dir, 'bad')).then(
      () => undefined,
      (e: unknown) => e,
    );
    assert.instance(error, UsageError);
    assert.match((error as Error).message, pattern);
    assert.not(existsSync(join(dir, 'bad')));
  };
  const set = (entry: GgufEntry) => [...entries.filter(({ key }) => key !== entry.key), entry];
  const text = (key: string, value: string) => set({ key, type: 'string', value });
  await refused(text('general.architecture', 'gemma'), tensors, /general.architecture "gemma" is not supported/);
  await refused(text('tokenizer.ggml.pre', 'tekken'), tensors, /tokenizer.ggml.pre "tekken" is not supported/);
  await refused(text('tokenizer.ggml.model', 'rwkv'), tensors, /tokenizer.ggml.model "rwkv"/);
  await refused(text('llama.rope.scaling.type', 'yarn'), tensors, /rope.scaling.type "yarn"/);
  await refused(set({ key: 'llama.rope.dimension_count', type: 'u32', value: 4 }), tensors, /4 rotary/);
  await refused(set({ key: 'llama.expert_count', type: 'u32', value: 8 }), tensors, /experts/);
  await refused(set({ key: 'tokenizer.ggml.eos_token_id', type: 'u32', value: 999 }), tensors, /eos_token_id 999/);
  await refused(
    set({ key: 'tokenizer.ggml.merges', type: 'string[]', value: ['x y'] }),
    tensors,
    /"x y" does not join/,
  );
  await refused(
    set({ key: 'llama.block_count', type: 'string', value: 'x' }),
    tensors,
    /llama.block_count: must be a number/,
  );
  await refused(
    entries.filter(({ key }) => key !== 'llama.block_count'),
    tensors,
    /llama.block_count is missing/,
  );
  await refused(entries, tensors.slice(1), /"token_embd.weight" is missing/);
  await refused(entries, tensors.slice(0, -1), /"output_norm.weight" is missing/);
  await refused(
    entries,
    [...tensors, { name: 'rope_freqs.weight', shape: [5], type: 'F32', data: new Float32Array(5) }],
    /"rope_freqs.weight": the factors \[0, 0, 0, 0, …\] are not those of Llama 3's rotary scaling/,
  );
  await refused(
    entries,
    [...tensors, { name: 'x', shape: [5], type: 'F32', data: new Float32Array(5) }],
    /"x" has no place/,
  );
  await refused(
    set({ key: 'llama.feed_forward_length', type: 'u32', value: 64 }),
    tensors,
    /asks for shape \[64,40\], found \[108,40\]/,
  );
});

test('the shortest decimal of a float32', () => {
  assert.is(shortestFloat(Math.fround(1e-5)), 1e-5);
  assert.is(shortestFloat(Math.fround(0.1)), 0.1);
  assert.is(shortestFloat(10000), 10000);
  assert.is(shortestFloat(Math.fround(1 / 3)), 0.33333334);
});

test.run();
