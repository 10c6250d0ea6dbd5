import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { UsageError } from '../../src/errors.ts';
import { floatToHalf, halfToFloat } from '../../src/files/float_formats.ts';
import { openGguf } from '../../src/files/gguf.ts';
import { exportGguf, type GgufStorage } from '../../src/files/gguf_export.ts';
import { importGguf } from '../../src/files/gguf_import.ts';
import { ggufTokenizer } from '../../src/files/gguf_tokenizer_export.ts';
import { writeGguf } from '../../src/files/gguf_write.ts';
import { openModel } from '../../src/files/model_folder.ts';
import { Tokenizer } from '../../src/text/tokenizer.ts';
import { SHAPES, tokenizerJson, writeRandomModel } from './random_model.ts';
import { MODELS, temporaryFolder } from './temporary.ts';

const dir = temporaryFolder();

async function exported(name: string, storage: GgufStorage, from = join(dir, name)): Promise<string> {
  const model = openModel(from);
  const path = join(dir, `${name}-${storage}.gguf`);
  await exportGguf(model, from, path, storage);
  model.close();
  return path;
}

for (const [name, shape] of Object.entries(SHAPES)) {
  test(`${name}: exported and imported again it is the same model with the same tokenizer`, async () => {
    const from = join(dir, name);
    const config = await writeRandomModel(from, shape);
    const back = join(dir, `${name}-back`);
    await importGguf(await exported(name, 'f32'), back);
    const [one, two] = [openModel(from), openModel(back)];
    // The tokenizer's BOS is in the file too; the config had none.
    assert.equal(two.config, { ...config, bosId: 512, initializerRange: two.config.initializerRange });
    for (const { name: tensor } of one.plan) assert.equal(two.read(tensor), one.read(tensor), tensor);
    for (const model of [one, two]) model.close();
    const [a, b] = await Promise.all([Tokenizer.load(from), Tokenizer.load(back)]);
    const text = 'Hello 1234 world!\n  <|im_start|>Über<|im_end|> \u00a0x';
    assert.equal(b.encodePrompt(text), a.encodePrompt(text));
    assert.equal([b.eosId, b.bosId, b.padId, b.addsBos], [a.eosId, a.bosId, a.padId, a.addsBos]);
    assert.is(b.chatTemplateSource, a.chatTemplateSource);
  });
}

test('f16 rounds matrices only; q8_0 falls back to f16 where rows are no multiple of 32', async () => {
  const from = join(dir, 'odd');
  await writeRandomModel(from, { ...SHAPES['llama'], intermediate_size: 50 });
  const model = openModel(from);
  const half = openGguf(await exported('odd', 'f16'));
  const whole = model.read('model.embed_tokens.weight');
  assert.equal(half.read('token_embd.weight'), whole.map((x) => halfToFloat(floatToHalf(x))));
  assert.is(half.tensors.get('output_norm.weight')!.type.name, 'F32');
  assert.is(half.metadata.get('general.file_type'), 1);
  half.close();
  const eight = openGguf(await exported('odd', 'q8_0'));
  const types = (name: string) => eight.tensors.get(`blk.0.${name}.weight`)!.type.name;
  assert.equal([types('attn_output'), types('ffn_up'), types('ffn_down'), types('attn_norm')], ['F16', 'Q8_0', 'F16', 'F32']);
  // Half a step of the largest of 32 numbers, and the rounding of the step to a half.
  const read = eight.read('token_embd.weight');
  for (let block = 0; block < whole.length; block += 32) {
    const largest = Math.max(...whole.subarray(block, block + 32).map(Math.abs));
    for (let i = block; i < block + 32; i++) assert.ok(Math.abs(read[i]! - whole[i]!) <= largest * (0.5 / 127 + 2 ** -11));
  }
  eight.close();
  model.close();
});

test('q8_0 has the bytes of llama.cpp\'s quantiser', async () => {
  const path = join(dir, 'blocks.gguf');
  // In each block the scale is a power of two, so that every byte can be told by hand.
  const block = (values: number[]) => [...values, ...new Array<number>(32 - values.length).fill(0)];
  const values = Float32Array.from([
    ...block([127, -127, 0.5, -0.5, 1.5, -2.5, 2.49, -126.6]), // scale 1, halves away from zero
    ...block([-31.75, 31.75, 0.125, -0.12, 0.375]), // scale 1/4
    ...block([]), // scale 0
    ...block([2 ** -30]), // a scale below the least half: 0, and yet the byte is 127
  ]);
  await writeGguf(path, [], [{ name: 'x', shape: [2, 64], type: 'Q8_0', data: values }]);
  const bytes = readFileSync(path).subarray(-160).subarray(0, 4 * 34); // padded from 136 to 160
  const expected = [
    [0x3c00, 127, -127, 1, -1, 2, -3, 2, -127],
    [0x3400, -127, 127, 1, 0, 2],
    [0],
    [0, 127],
  ].flatMap(([scale, ...quants]) => [scale! & 255, scale! >> 8, ...block(quants).map((q) => q & 255)]);
  assert.equal([...bytes], expected);
  const back = openGguf(path);
  assert.equal([...back.read('x').subarray(0, 8)], [127, -127, 1, -1, 2, -3, 2, -127]);
  assert.equal([...back.read('x').subarray(32, 37)], [-31.75, 31.75, 0.25, 0, 0.5]);
  back.close();
});

test('q8_0 leaves the head, the attention and the MLP\'s last matrix of a llama or qwen2 in F16, nothing of a gpt2', async () => {
  const half = { llama: ['output'], linear: ['token_embd'], qwen2: ['token_embd'], gpt2: [] };
  for (const [name, head] of Object.entries(half)) {
    // All widths are multiples of 32.
    const shape = name === 'gpt2' ? {} : { head_dim: 16, intermediate_size: 64 };
    await writeRandomModel(join(dir, `types-${name}`), { ...SHAPES[name], ...shape });
    const file = openGguf(await exported(`types-${name}`, 'q8_0'));
    const named = [...head, ...(name === 'gpt2' ? [] : ['attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_down'].flatMap((part) => [`blk.0.${part}`, `blk.1.${part}`]))];
    const matrices = [...file.tensors].filter(([tensor, { shape: dims }]) => dims.length > 1 && tensor !== 'position_embd.weight');
    const found = matrices.filter(([, { type }]) => type.name === 'F16').map(([tensor]) => tensor.replace('.weight', ''));
    assert.equal(found.sort(), named.sort(), name);
    assert.ok(matrices.every(([, { type }]) => type.name === 'F16' || type.name === 'Q8_0'));
    assert.is(file.metadata.get('general.file_type'), 7);
    file.close();
  }
});

test('Llama 3\'s rotary scaling is written as factors of the frequencies', async () => {
  const scaling = { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 32 };
  await writeRandomModel(join(dir, 'llama3'), { ...SHAPES['llama'], head_dim: 8, rope_theta: 10000, rope_scaling: scaling });
  const file = openGguf(await exported('llama3', 'f16'));
  // Wavelengths 6.28, 62.8, 628 and 6283 for an original context of 32: below 8 kept, above 32 divided by 8.
  assert.equal([...file.read('rope_freqs.weight')], [1, 8, 8, 8]);
  file.close();
});

test('SentencePiece: scores follow the merges, bytes and unknown have their types', async () => {
  const stories = join(MODELS, 'stories260K');
  const file = openGguf(await exported('stories', 'f16', stories));
  const { metadata } = file;
  assert.is(metadata.get('tokenizer.ggml.model'), 'llama');
  assert.is(metadata.get('tokenizer.ggml.add_bos_token'), true);
  assert.is(metadata.get('tokenizer.ggml.add_space_prefix'), true);
  const tokens = metadata.get('tokenizer.ggml.tokens') as string[];
  const types = metadata.get('tokenizer.ggml.token_type') as number[];
  const scores = metadata.get('tokenizer.ggml.scores') as number[];
  assert.equal([types[0], types[1], types[2], types[3], types[258], types[259]], [2, 3, 3, 6, 6, 1]);
  const tokenizer = await Tokenizer.load(stories);
  // llama.cpp's algorithm on these scores: join the neighbours whose union scores highest, the leftmost first.
  const ids = new Map(tokens.map((token, id) => [token, id]));
  for (const text of ['Once upon a time there was a girl.', 'Lily  ran to the big red ball, naïve!', 'x y\tz\n']) {
    const symbols = [...`▁${text.replaceAll(' ', '▁')}`];
    for (;;) {
      let best = -1;
      for (let i = 0; i + 1 < symbols.length; i++) {
        const id = ids.get(symbols[i]! + symbols[i + 1]!);
        if (id === undefined) continue;
        if (best < 0 || scores[id]! > scores[ids.get(symbols[best]! + symbols[best + 1]!)!]!) best = i;
      }
      if (best < 0) break;
      symbols.splice(best, 2, symbols[best]! + symbols[best + 1]!);
    }
    const expected = symbols.flatMap((symbol) => ids.get(symbol) ?? [...Buffer.from(symbol)].map((byte) => 3 + byte));
    assert.equal(tokenizer.encode(text), expected, text);
  }
  file.close();
});

test('tokens that the embedding has rows for, but no text, are placeholders', async () => {
  await writeRandomModel(join(dir, 'padded'), SHAPES['qwen2']!);
  const file = openGguf(await exported('padded', 'f16'));
  const tokens = file.metadata.get('tokenizer.ggml.tokens') as string[];
  const types = file.metadata.get('tokenizer.ggml.token_type') as number[];
  assert.is(tokens.length, 520);
  assert.equal([tokens[519], types[519]], ['[PAD519]', 5]);
  assert.equal([tokens[513], types[513]], ['<|im_end|>', 3]);
  file.close();
});

test('the ends of a generation besides EOS go into the file and come back', async () => {
  const from = join(dir, 'ends');
  await writeRandomModel(from, SHAPES['llama']!);
  writeFileSync(join(from, 'generation_config.json'), JSON.stringify({ eos_token_id: [40, 513, 41] }));
  const path = await exported('ends', 'f16');
  const file = openGguf(path);
  assert.equal(['eos', 'eot', 'eom'].map((role) => file.metadata.get(`tokenizer.ggml.${role}_token_id`)), [513, 40, 41]);
  file.close();
  const back = join(dir, 'ends-back');
  await importGguf(path, back);
  assert.equal((JSON.parse(readFileSync(join(back, 'generation_config.json'), 'utf8')) as { eos_token_id: number[] }).eos_token_id, [513, 40, 41]);
  assert.equal([...(await Tokenizer.load(back)).eosIds].sort(), [...(await Tokenizer.load(from)).eosIds].sort());
});

test('tokens that strip white space are warned of', async () => {
  const from = join(dir, 'stripping');
  const added = tokenizerJson('chat/chatml').tokenizer.added_tokens as { content: string }[];
  await writeRandomModel(from, SHAPES['llama']!, 'lm', { added_tokens: added.map((token) => ({ ...token, rstrip: token.content === '<|im_end|>' })) });
  const warnings: string[] = [];
  const model = openModel(from);
  await exportGguf(model, from, join(dir, 'stripping.gguf'), 'f16', undefined, (line) => warnings.push(line));
  model.close();
  assert.equal(warnings.map((line) => /^"<\|im_end\|>": the tokenizer takes white space/.test(line)), [true]);
});

const named = (pattern: RegExp) => (error: unknown): void => {
  assert.instance(error, UsageError);
  assert.match((error as Error).message, pattern);
};

test('what llama.cpp lacks is named, and a file that was there before stays', async () => {
  const refused = async (name: string, shape: object, pattern: RegExp, head: 'lm' | 'reward' = 'lm', change = {}): Promise<void> => {
    await writeRandomModel(join(dir, name), shape, head, change);
    writeFileSync(join(dir, `${name}-f16.gguf`), 'old');
    await exported(name, 'f16').then(() => assert.unreachable(`${name} was written`), named(pattern));
    assert.is(readdirSync(dir).filter((entry) => entry.startsWith(`${name}-f16`)).length, 1);
  };
  const { gpt2, qwen2 } = SHAPES as { gpt2: object; qwen2: object };
  await refused('erf', { ...gpt2, activation_function: 'gelu' }, /activation_function "gelu"/);
  await refused('rm', qwen2, /is a reward model/, 'reward');
  await refused('yarn', { ...qwen2, rope_scaling: { rope_type: 'yarn', factor: 2 } }, /rope_type "yarn"/);
  await refused('whitespace', gpt2, /pre_tokenizer ByteLevel\(prefix true, regex true\) has no name in llama.cpp/, 'lm',
    { pre_tokenizer: { type: 'ByteLevel', add_prefix_space: true } });
  await refused('nfkc', gpt2, /with normalizer NFKC has no name/, 'lm', { normalizer: { type: 'NFKC' } });
  const { tokenizer } = tokenizerJson('chat/chatml');
  const model = { ...(tokenizer['model'] as object), ignore_merges: true };
  await refused('ignores', gpt2, /model.ignore_merges true is not what llama.cpp does for gpt-2/, 'lm', { model });
  const bos = { type: 'TemplateProcessing', single: [{ SpecialToken: { id: '<|pad|>' } }], special_tokens: { '<|pad|>': { ids: [1] } } };
  await refused('prefix', gpt2, /ids \[1\] before a text/, 'lm', { post_processor: bos });
});

test('a tokenizer with more ids than the embedding has rows, and missing SentencePiece merges, are refused', async () => {
  const chat = tokenizerJson('chat/chatml');
  const large = Tokenizer.fromJson(chat.tokenizer, chat.settings);
  assert.throws(() => ggufTokenizer(large, 'tokenizer.json', 513), /has id 513, but the model has 513 rows/);
  const { tokenizer: json, settings } = tokenizerJson('stories260K');
  const model = json['model'] as { merges: string[] };
  const merges = model.merges.filter((merge) => merge !== 'h e');
  const cut = Tokenizer.fromJson({ ...json, model: { ...model, merges } }, settings);
  assert.throws(() => ggufTokenizer(cut, 'tokenizer.json', 512), /model.merges lacks "h e"/);
  const other = Tokenizer.fromJson({ ...json, normalizer: { type: 'NFKC' } }, settings);
  assert.throws(() => ggufTokenizer(other, 'tokenizer.json', 512), /byte_fallback with "NFKC" before the merges/);
});

test('an unwritable folder is an error that names it', async () => {
  await writeRandomModel(join(dir, 'plain'), SHAPES['gpt2']!);
  const model = openModel(join(dir, 'plain'));
  const path = join(dir, 'missing', 'x.gguf');
  await exportGguf(model, join(dir, 'plain'), path, 'f16').then(() => assert.unreachable(), (error: Error) => {
    assert.match(error.message, /missing.*does not exist/);
  });
  assert.not(existsSync(path));
  model.close();
});

test.run();
