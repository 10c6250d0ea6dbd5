import { readFileSync, writeFileSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { UsageError } from '../../src/errors.ts';
import {
  ADAPTER_SCORE, adapterTensorName, isAdapterFolder, openAdapted, tokenizerFolder,
} from '../../src/files/adapter.ts';
import { writeAdapter } from '../../src/files/adapter_write.ts';
import { openModel } from '../../src/files/model_folder.ts';
import { writeSafetensors } from '../../src/files/safetensors.ts';
import { FUZZ_CASES, mutate, seeded as seededBelow } from './mutate.ts';
import { assertMerged, edit, fresh, randomAdapter } from './random_adapter.ts';
import { MODELS } from './temporary.ts';

const CASES: [string, string[], number][] = [
  ['llama-tiny', ['q_proj', 'v_proj', 'down_proj'], 3],
  ['qwen2-tiny', ['o_proj', 'gate_proj'], 2],
  ['gpt2-tiny', ['c_attn', 'c_proj'], 4],
];
for (const [name, targets, rank] of CASES) {
  test(`${name} with an adapter opens as the model with merged weights`, async () => {
    const base = join(MODELS, name);
    const adapter = randomAdapter(base, targets, rank, 5, 1);
    const out = fresh();
    await writeAdapter(out, adapter);
    assert.ok(isAdapterFolder(out) && !isAdapterFolder(base));
    const config = JSON.parse(readFileSync(join(out, 'adapter_config.json'), 'utf8')) as Record<string, unknown>;
    assert.is(config['r'], rank);
    assert.is(config['lora_alpha'], 5);
    assert.equal(config['target_modules'], targets);
    assert.is(config['task_type'], 'CAUSAL_LM');
    assert.is(config['fan_in_fan_out'], name === 'gpt2-tiny');
    const [found, plain] = [openModel(out, { kind: 'lm' }), openModel(base)];
    assert.is(found.dir, out);
    assertMerged(found, plain, [adapter]);
    // A slice is the same numbers.
    const matrix = plain.plan.find(({ name: n }) => adapter.tensors.has(adapterTensorName(n, 'A')))!.name;
    assert.equal(found.read(matrix, 37, 101), found.read(matrix).slice(37, 138));
    found.close();
    plain.close();
  });
}

test('an adapter on an adapter: opened in turn, and written as one', async () => {
  const base = join(MODELS, 'llama-tiny');
  const below = randomAdapter(base, ['q_proj', 'v_proj'], 2, 3, 1);
  const lower = fresh();
  await writeAdapter(lower, below);
  const above = { ...randomAdapter(base, ['v_proj', 'o_proj'], 3, 8, 2), base: lower };
  const both = fresh();
  await writeAdapter(both, above);
  const config = JSON.parse(readFileSync(join(both, 'adapter_config.json'), 'utf8')) as Record<string, unknown>;
  assert.is(config['base_model_name_or_path'], base);
  assert.is(config['r'], 5);
  assert.is(config['lora_alpha'], 5);
  assert.equal([...(config['target_modules'] as string[])].sort(), ['self_attn.o_proj', 'self_attn.q_proj', 'self_attn.v_proj']);
  const [found, plain] = [openModel(both), openModel(base)];
  assertMerged(found, plain, [below, above]);

  const chained = fresh();
  await writeAdapter(chained, { ...above, base });
  edit(chained, (json) => (json['base_model_name_or_path'] = lower));
  const chain = openModel(chained);
  assertMerged(chain, plain, [below, above]);
  for (const model of [found, plain, chain]) model.close();
});

test('a reward adapter brings its own head, bias and gain', async () => {
  const base = join(MODELS, 'qwen2-tiny');
  const adapter = randomAdapter(base, ['v_proj'], 2, 2, 4, 'reward');
  const out = fresh();
  await writeAdapter(out, { ...adapter, rewardBias: -1.25, rewardGain: 0.5 });
  const model = openModel(out, { kind: 'reward' });
  assert.equal([model.rewardBias, model.rewardGain, model.head], [-1.25, 0.5, 'reward']);
  assert.equal(model.read('score.weight'), adapter.tensors.get(ADAPTER_SCORE));
  assert.not.ok(model.plan.some(({ name }) => name === 'lm_head.weight'));
  model.close();
  assert.throws(() => openModel(out, { kind: 'lm' }), named('a language model is needed'));
});

test('the base is found from the adapter\'s folder too, and its tokenizer is used', async () => {
  const base = join(MODELS, 'stories260K');
  const out = fresh();
  await writeAdapter(out, randomAdapter(base, ['v_proj'], 1, 1, 1));
  edit(out, (json) => (json['base_model_name_or_path'] = relative(out, base)));
  openModel(out).close();
  assert.is(resolve(tokenizerFolder(out)), base);
  writeFileSync(join(out, 'tokenizer.json'), '{}');
  assert.is(tokenizerFolder(out), out);
});

const named = (text: string) => (error: unknown): boolean => {
  assert.instance(error, UsageError);
  assert.ok((error as Error).message.includes(text), `${(error as Error).message} should name ${text}`);
  return true;
};

test('what is not supported or broken is refused by name', async () => {
  const base = join(MODELS, 'llama-tiny');
  const adapter = randomAdapter(base, ['v_proj'], 2, 2, 1);
  const changes: [Record<string, unknown>, string][] = [
    [{ peft_type: 'IA3' }, 'peft_type: "IA3"'],
    [{ peft_type: undefined }, 'peft_type'],
    [{ use_dora: true }, 'use_dora: true'],
    [{ bias: 'some' }, 'bias: "some"'],
    [{ lora_bias: true }, 'lora_bias'],
    [{ alpha_pattern: { q_proj: 0 } }, 'alpha_pattern: "q_proj" must have a positive number, but has 0'],
    [{ alpha_pattern: { '(?P<x>q)': 4 } }, 'alpha_pattern: "(?P<x>q)" is not supported'],
    [{ init_lora_weights: 'pissa_niter_4' }, 'init_lora_weights: "pissa_niter_4"'],
    [{ layer_replication: [[0, 2]] }, 'layer_replication'],
    [{ alora_invocation_tokens: [5] }, 'alora_invocation_tokens'],
    [{ use_qalora: true }, 'use_qalora: true'],
    [{ init_lora_weights: 'lora_ga' }, 'init_lora_weights: "lora_ga"'],
    [{ task_type: 'SEQ_2_SEQ_LM' }, 'task_type: "SEQ_2_SEQ_LM"'],
    [{ task_type: 'SEQ_CLS' }, '"base_model.model.score.weight" is missing'],
    [{ r: 0 }, 'r: must be a positive number, but is 0'],
    [{ lora_alpha: 'x' }, 'lora_alpha'],
    [{ base_model_name_or_path: 7 }, 'base_model_name_or_path'],
    [{ base_model_name_or_path: 'meta/none' }, 'base_model_name_or_path: no such folder: "meta/none"'],
  ];
  for (const [change, text] of changes) {
    const out = fresh();
    await writeAdapter(out, adapter);
    edit(out, (json) => Object.assign(json, change));
    assert.throws(() => openModel(out), named(text));
  }
  const itself = fresh();
  await writeAdapter(itself, adapter);
  edit(itself, (json) => (json['base_model_name_or_path'] = itself));
  assert.throws(() => openModel(itself), named('stand on one another'));
});

test('tensors must fit the base', async () => {
  const base = join(MODELS, 'llama-tiny');
  const a = adapterTensorName('model.layers.0.self_attn.v_proj.weight', 'A');
  const b = adapterTensorName('model.layers.0.self_attn.v_proj.weight', 'B');
  const cases: [Record<string, number[]>, string, number?][] = [
    [{ [a]: [2, 40], [b]: [40, 2] }, 'shape [20,2], found [40,2]'],
    [{ [a]: [2, 40] }, `"${b}" is missing`],
    [{ [a]: [2, 40], [b]: [20, 2], 'base_model.model.lm_head.lora_A.weight': [2, 40] }, 'lm_head.lora_B.weight" is missing'],
    [{ [a]: [2, 40], [b]: [20, 2], 'base_model.model.model.embed_tokens.weight': [1, 40] }, 'embed_tokens.weight": the base model asks for shape'],
    [{ [a]: [2, 40], [b]: [20, 2], 'base_model.model.model.norm.bias': [40] }, 'norm.bias": has no place'],
    [{ [a]: [2, 40], [b]: [20, 2], 'base_model.model.model.norm.weight': [41] }, 'shape [40], found [41]'],
    [{ [a]: [0, 40], [b]: [20, 0] }, 'has rank 0'],
    [{}, 'has no tensors'],
    [{ [a]: [2, 40], [b]: [20, 2] }, 'has the value NaN', NaN],
  ];
  for (const [tensors, text, value = 0] of cases) {
    const out = fresh();
    await writeAdapter(out, randomAdapter(base, ['v_proj'], 2, 2, 1));
    await writeSafetensors(join(out, 'adapter_model.safetensors'), Object.entries(tensors).map(([name, shape]) => ({
      name, shape, data: new Float32Array(shape.reduce((p, n) => p * n, 1)).fill(value),
    })));
    assert.throws(() => {
      const model = openModel(out);
      model.plan.forEach(({ name }) => model.read(name));
    }, named(text));
  }
});

test('mutated adapter files end in an error of ours or a model', async () => {
  const base = join(MODELS, 'llama-tiny');
  const source = fresh();
  await writeAdapter(source, randomAdapter(base, ['v_proj'], 1, 1, 1));
  const random = seededBelow(11);
  for (const name of ['adapter_config.json', 'adapter_model.safetensors']) {
    const bytes = readFileSync(join(source, name));
    for (let i = 0; i < FUZZ_CASES / 2; i++) {
      writeFileSync(join(source, name), mutate(bytes, random));
      try {
        const model = openAdapted(source);
        model.read('model.layers.0.self_attn.v_proj.weight');
        model.close();
      } catch (error) {
        assert.instance(error, UsageError, `${name}, case ${i}: ${(error as Error).stack}`);
      }
    }
    writeFileSync(join(source, name), bytes);
  }
});

test.run();
