import { copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { UsageError } from '../../src/errors.ts';
import { holdsModel, openModel, writeModel, type ModelFolder, type NewModel } from '../../src/files/model_folder.ts';
import { openSafetensors, writeSafetensors, type NewTensor } from '../../src/files/safetensors.ts';
import { FUZZ_CASES, mutate, seeded } from './mutate.ts';
import { MODELS, temporaryFolder } from './temporary.ts';

const FOLDERS = [
  'gpt2-tiny',
  'llama-tiny',
  'qwen2-tiny',
  'gpt2-rm-tiny',
  'llama-rm-tiny',
  'stories260K',
  'variants/gpt2-hub-names',
  'variants/llama-bf16-sharded',
  'variants/llama3-rope-headdim-f16',
  'variants/qwen2-rm',
];
const dir = temporaryFolder();
let copies = 0;

type Json = Record<string, unknown>;

function copy(name: string, changes: Json = {}): string {
  const to = join(dir, `copy-${copies++}`);
  cpSync(join(MODELS, name), to, { recursive: true });
  const path = join(to, 'config.json');
  const config = JSON.parse(readFileSync(path, 'utf8')) as Json;
  writeFileSync(path, JSON.stringify({ ...config, ...changes }));
  return to;
}

/** Writes the tensors of a folder again, changed. */
async function rewrite(folder: string, change: (tensors: Map<string, NewTensor>) => void): Promise<void> {
  const path = join(folder, 'model.safetensors');
  const source = openSafetensors(path);
  const tensors = new Map<string, NewTensor>();
  for (const name of source.names)
    tensors.set(name, { name, shape: source.tensors.get(name)!.shape, data: source.read(name) });
  source.close();
  change(tensors);
  await writeSafetensors(path, tensors.values());
}

function refused(folder: string, pattern: RegExp, use: (model: ModelFolder) => void = () => undefined): void {
  try {
    const model = openModel(folder);
    use(model);
    model.close();
  } catch (error) {
    assert.instance(error, UsageError);
    assert.match((error as Error).message, pattern);
    assert.not((error as Error).message.includes('\n'));
    return;
  }
  assert.unreachable(`accepted, but ${pattern} was due`);
}

/** What writeModel needs to write the same model again, in float32. */
const parts = (model: ModelFolder): NewModel => {
  const { config, head, rewardBias, rewardGain, hfConfig } = model;
  return { config, head, rewardBias, rewardGain, hfConfig, dtype: 'F32', tensors: tensorsOf(model) };
};

const tensorsOf = (model: ModelFolder) =>
  model.plan.map(({ name, shape }) => ({ name, shape, data: () => model.read(name) }));

test('every fixture opens, is written again, and holds the same model', async () => {
  for (const [i, name] of FOLDERS.entries()) {
    const model = openModel(join(MODELS, name));
    assert.is(model.head, /rm/.test(name) ? 'reward' : 'lm', name);
    const out = join(dir, `again-${i}`);
    mkdirSync(out);
    await writeModel(out, { ...parts(model), tokenizerFrom: model.dir });
    const again = openModel(out);
    assert.is(again.dtype, 'F32');
    assert.equal(again.config, model.config);
    for (const { name: tensor } of model.plan)
      assert.equal(again.read(tensor), model.read(tensor), `${name} ${tensor}`);
    assert.equal(again.plan, model.plan);
    for (const file of ['tokenizer.json', 'tokenizer_config.json']) {
      assert.is(existsSync(join(out, file)), existsSync(join(model.dir, file)));
    }
    assert.ok(existsSync(join(out, 'generation_config.json')));
    model.close();
    again.close();
  }
});

test("the hub's short names and mask buffers, and prefixed names, are the same model", async () => {
  const short = openModel(join(MODELS, 'variants/gpt2-hub-names'));
  const bare = openSafetensors(join(MODELS, 'variants/gpt2-hub-names/model.safetensors'));
  assert.equal(short.read('transformer.h.1.mlp.c_fc.weight'), bare.read('h.1.mlp.c_fc.weight'));
  assert.equal(short.read('transformer.wte.weight', 16, 16), bare.read('wte.weight').slice(16, 32));
  // The same for llama without `model.`
  const folder = copy('llama-tiny');
  await rewrite(folder, (tensors) => {
    for (const tensor of tensors.values()) tensor.name = tensor.name.replace(/^model\./, '');
  });
  const original = openModel(join(MODELS, 'llama-tiny'));
  const renamed = openModel(folder);
  assert.equal(
    renamed.read('model.layers.2.self_attn.k_proj.weight'),
    original.read('model.layers.2.self_attn.k_proj.weight'),
  );
  for (const m of [short, original, renamed, bare]) m.close();
});

test('a tied head may be stored too, or instead of the embedding', async () => {
  const embedding = openModel(join(MODELS, 'llama-tiny')).read('model.embed_tokens.weight');
  const both = copy('llama-tiny');
  await rewrite(both, (tensors) => {
    tensors.set('lm_head.weight', { ...tensors.get('model.embed_tokens.weight')!, name: 'lm_head.weight' });
  });
  assert.equal(openModel(both).read('model.embed_tokens.weight'), embedding);
  assert.equal(openModel(both).read('model.embed_tokens.weight', 40, 80), embedding.slice(40, 120));
  // transformers 4 ties such a model, transformers 5 does not.
  await rewrite(both, (tensors) => {
    (tensors.get('lm_head.weight')!.data as Float32Array)[50] += 1;
  });
  const read = (from?: number, count?: number) => (model: ReturnType<typeof openModel>) => model.read('model.embed_tokens.weight', from, count);
  refused(both, /model.safetensors: tensor "lm_head.weight" differs from the embedding, but config.json says tie_word_embeddings/, read());
  refused(both, /differs from the embedding/, read(40, 80));
  const instead = copy('llama-tiny');
  await rewrite(instead, (tensors) => {
    tensors.get('model.embed_tokens.weight')!.name = 'lm_head.weight';
  });
  assert.equal(openModel(instead).read('model.embed_tokens.weight'), embedding);
});

test('missing, misshapen, unexpected, non-finite and integer tensors are named', async () => {
  const missing = copy('llama-tiny');
  await rewrite(missing, (tensors) => tensors.delete('model.layers.1.mlp.up_proj.weight'));
  refused(missing, /model.safetensors: tensor "model.layers.1.mlp.up_proj.weight" is missing/);
  refused(
    copy('llama-tiny', { intermediate_size: 100 }),
    /"model.layers.0.mlp.gate_proj.weight": config.json asks for shape \[100,40\], found \[108,40\]/,
  );
  refused(copy('llama-tiny', { num_hidden_layers: 2 }), /"model.layers.2.input_layernorm.weight" has no place/);
  refused(copy('llama-tiny', { num_hidden_layers: 4 }), /"model.layers.3.input_layernorm.weight" is missing/);
  refused(copy('llama-tiny', { attention_bias: true }), /self_attn.q_proj.bias" is missing/);
  refused(copy('qwen2-tiny', { model_type: 'llama' }), /self_attn.k_proj.bias" has no place/);
  const nan = copy('llama-tiny');
  await rewrite(nan, (tensors) => (tensors.get('model.norm.weight')!.data as Float32Array).set([NaN], 3));
  refused(nan, /tensor "model.norm.weight" has the value NaN at index 3/, (model) => model.read('model.norm.weight'));
  const integers = copy('llama-tiny');
  await rewrite(integers, (tensors) => {
    const norm = tensors.get('model.norm.weight')!;
    tensors.set('model.norm.weight', { ...norm, dtype: 'I32', data: new Int32Array(40) });
  });
  refused(integers, /"model.norm.weight" is stored as I32/);
});

test('folders that are no model say why', () => {
  const empty = join(dir, 'empty');
  mkdirSync(empty);
  refused(join(dir, 'absent'), /absent: no such file or folder/);
  refused(join(MODELS, 'README.md'), /is not a model folder/);
  refused(empty, /has no config.json/);
  assert.not(holdsModel(empty));
  copyFileSync(join(MODELS, 'gpt2-tiny/config.json'), join(empty, 'config.json'));
  refused(empty, /has no model.safetensors$/);
  writeFileSync(join(empty, 'pytorch_model.bin'), '');
  refused(empty, /pytorch_model.bin is not a format/);
  writeFileSync(join(empty, 'config.json'), '{"model_type": "gpt2"');
  refused(empty, /config.json: is not valid JSON/);
  const adapter = join(dir, 'adapter');
  mkdirSync(adapter);
  writeFileSync(join(adapter, 'adapter_config.json'), '{"base_model_name_or_path":"some/base"}');
  refused(adapter, /adapter_config\.json: peft_type: nothing is not supported/);
});

test('heads: the wrong kind, several labels, and other classes are refused', () => {
  assert.throws(
    () => openModel(join(MODELS, 'gpt2-tiny'), { kind: 'reward' }),
    /is a language model, but a reward model/,
  );
  assert.throws(
    () => openModel(join(MODELS, 'gpt2-rm-tiny'), { kind: 'lm' }),
    /is a reward model, but a language model/,
  );
  refused(
    copy('gpt2-rm-tiny', { id2label: { 0: 'a', 1: 'b' } }),
    /id2label: a reward model has one label, this one has 2/,
  );
  refused(copy('gpt2-rm-tiny', { id2label: undefined }), /one label, this one has 2/);
  refused(
    copy('gpt2-tiny', { architectures: ['GPT2ForTokenClassification'] }),
    /"GPT2ForTokenClassification" is not supported/,
  );
  refused(copy('gpt2-rm-tiny', { rlhf: { reward_bias: 'x' } }), /rlhf.reward_bias must be a number/);
  assert.is(openModel(copy('gpt2-rm-tiny', { architectures: undefined })).head, 'reward');
});

test('reward models keep bias and gain, and never pad with EOS', async () => {
  const model = openModel(join(MODELS, 'llama-rm-tiny'));
  const added = [
    [96, '<spare>'],
    [98, '<s>'],
    [99, '</s>'],
  ].map(([id, content]) => ({ id, content, special: true }));
  const settings = { bos_token: '<s>', eos_token: '</s>', pad_token: '</s>' };
  const write = async (name: string, padId: number | undefined, tokens: unknown[]) => {
    const out = join(dir, name);
    mkdirSync(out);
    await writeModel(out, {
      config: { ...model.config, padId },
      head: 'reward',
      rewardBias: -1.25,
      rewardGain: 0.5,
      tensors: tensorsOf(model),
      tokenizerFrom: {
        'tokenizer.json': JSON.stringify({ added_tokens: tokens }),
        'tokenizer_config.json': JSON.stringify(settings),
      },
    });
    const json = (file: string) => JSON.parse(readFileSync(join(out, file), 'utf8')) as Json;
    return {
      config: json('config.json'),
      settings: json('tokenizer_config.json'),
      opened: openModel(out, { kind: 'reward' }),
    };
  };
  const kept = await write('kept', 100, added);
  assert.is(kept.config['pad_token_id'], 100);
  assert.equal(kept.config['rlhf'], { reward_bias: -1.25, reward_gain: 0.5 });
  assert.equal([kept.opened.rewardBias, kept.opened.rewardGain], [-1.25, 0.5]);
  const moved = await write('moved', 99, added);
  assert.is(moved.config['pad_token_id'], 96);
  assert.is(moved.settings['pad_token'], '<spare>');
  const none = await write('none', 99, added.slice(1));
  assert.is(none.config['pad_token_id'], null);
  assert.is(none.settings['pad_token'], '</s>');
});

test('large models are written in shards, smaller ones replace them without a trace', async () => {
  const model = openModel(join(MODELS, 'qwen2-tiny'));
  const out = join(dir, 'sharded');
  mkdirSync(out);
  await writeModel(out, { ...parts(model), dtype: 'BF16', maxShardBytes: 20_000 });
  const names = readdirSync(out).sort();
  assert.ok(
    names.includes('model-00001-of-00004.safetensors') && names.includes('model.safetensors.index.json'),
    names.join(),
  );
  const sharded = openModel(out);
  assert.is(sharded.dtype, 'BF16');
  const [a, b] = [sharded.read('lm_head.weight'), model.read('lm_head.weight')];
  a.forEach((v, i) => assert.ok(Math.abs(v - b[i]!) <= Math.abs(b[i]!) * 2 ** -8));
  sharded.close();
  await writeModel(out, parts(model));
  assert.equal(readdirSync(out).sort(), ['config.json', 'generation_config.json', 'model.safetensors']);
  assert.equal(openModel(out).read('lm_head.weight'), b);
});

test('when writing fails, what was there stays and nothing is left over', async () => {
  const model = openModel(join(MODELS, 'qwen2-tiny'));
  const out = join(dir, 'failing');
  mkdirSync(out);
  await writeModel(out, parts(model));
  const before = readdirSync(out);
  const tensors = tensorsOf(model);
  tensors[5]!.data = () => {
    throw new Error('device lost');
  };
  let message = '';
  await writeModel(out, { ...parts(model), tensors }).catch((error: Error) => (message = error.message));
  assert.is(message, 'device lost');
  assert.equal(readdirSync(out), before);
  openModel(out).close();
  await writeModel(out, { ...parts(model), tensors: tensors.slice(1) }).catch(
    (error: Error) => (message = error.message),
  );
  assert.match(message, /model.embed_tokens.weight: shape \[89,32\] is due, nothing was given/);
});

test(`${FUZZ_CASES} folders with a mutated config.json or index are read or refused`, () => {
  const random = seeded(7);
  const folders = [copy('variants/qwen2-rm'), copy('variants/llama-bf16-sharded'), copy('variants/gpt2-hub-names')];
  const files = folders.flatMap((f) =>
    readdirSync(f)
      .filter((n) => n === 'config.json' || n.endsWith('.index.json'))
      .map((n) => [f, n] as const),
  );
  const originals = files.map(([f, n]) => readFileSync(join(f, n)));
  let opened = 0;
  for (let n = 0; n < FUZZ_CASES; n++) {
    const at = random(files.length);
    const [folder, file] = files[at]!;
    writeFileSync(join(folder, file), mutate(originals[at]!, random));
    const started = performance.now();
    try {
      openModel(folder).close();
      opened++;
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      assert.not(error.message.includes('\n'));
    } finally {
      writeFileSync(join(folder, file), originals[at]!);
    }
    assert.ok(performance.now() - started < 1000);
  }
  assert.ok(opened > 0 && opened < FUZZ_CASES);
  folders.forEach((folder) => rmSync(folder, { recursive: true }));
});

test.run();
