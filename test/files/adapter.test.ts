import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { UsageError } from '../../src/errors.ts';
import {
  ADAPTER_SCORE, adapterTensorName, isAdapterFolder, openAdapted, outIn, tokenizerFolder,
} from '../../src/files/adapter.ts';
import { writeAdapter, type NewAdapter } from '../../src/files/adapter_write.ts';
import { openModel, type ModelFolder } from '../../src/files/model_folder.ts';
import { openSafetensors, writeSafetensors } from '../../src/files/safetensors.ts';
import type { Head } from '../../src/model/config.ts';
import { seeded } from '../gpu/device.ts';
import { FUZZ_CASES, mutate, seeded as seededBelow } from './mutate.ts';
import { MODELS, temporaryFolder } from './temporary.ts';

const dir = temporaryFolder();
let folders = 0;
const fresh = (): string => {
  const folder = join(dir, `f${folders++}`);
  mkdirSync(folder);
  return folder;
};

/** An adapter of random values on the matrices whose names end with one of the targets. */
function randomAdapter(base: string, targets: string[], rank: number, alpha: number, seed: number, head: Head = 'lm'): NewAdapter {
  const model = openModel(base);
  const { normals } = seeded(seed);
  const tensors = new Map<string, Float32Array>();
  for (const planned of model.plan) {
    if (!targets.some((target) => planned.name.endsWith(`.${target}.weight`))) continue;
    const [out, input] = outIn(planned);
    tensors.set(adapterTensorName(planned.name, 'A'), normals(rank * input));
    tensors.set(adapterTensorName(planned.name, 'B'), normals(out * rank));
  }
  if (head === 'reward') tensors.set(ADAPTER_SCORE, normals(model.config.width));
  model.close();
  return { config: model.config, head, base, rank, alpha, targets, tensors };
}

/** scale · B · A in float64, as the matrix is stored. */
function product(model: ModelFolder, name: string, { tensors, rank, alpha }: NewAdapter): Float64Array {
  const planned = model.plan.find((t) => t.name === name)!;
  const [out, input] = outIn(planned);
  const [a, b] = [tensors.get(adapterTensorName(name, 'A')), tensors.get(adapterTensorName(name, 'B'))];
  const transposed = planned.layout === 'in_out' || planned.kind === 'embedding';
  const result = new Float64Array(planned.shape.reduce((size, n) => size * n, 1));
  if (!a || !b) return result;
  for (let o = 0; o < out; o++) {
    for (let i = 0; i < input; i++) {
      let sum = 0;
      for (let k = 0; k < rank; k++) sum += b[o * rank + k]! * a[k * input + i]!;
      result[transposed ? i * out + o : o * input + i] = (sum * alpha) / rank;
    }
  }
  return result;
}

function assertMerged(found: ModelFolder, base: ModelFolder, adapters: NewAdapter[]): void {
  for (const { name } of base.plan) {
    if (name === 'score.weight') continue;
    const products = adapters.map((adapter) => product(base, name, adapter));
    const wanted = Array.from(base.read(name), (x, i) => products.reduce((sum, p) => sum + p[i]!, x));
    const values = found.read(name);
    // One rounding to float32 for the sum; a second where two adapters are added one after the other.
    const worst = values.reduce((w, x, i) => Math.max(w, Math.abs(x - wanted[i]!) / (1 + Math.abs(wanted[i]!))), 0);
    assert.ok(worst < 4e-7, `${name}: off by ${worst}`);
  }
}

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

function edit(folder: string, change: (json: Record<string, unknown>) => void): void {
  const path = join(folder, 'adapter_config.json');
  const json = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  change(json);
  writeFileSync(path, JSON.stringify(json));
}

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

test('a rank that differs between matrices scales each by its own', async () => {
  const base = join(MODELS, 'llama-tiny');
  const adapter = randomAdapter(base, ['v_proj'], 4, 2, 1);
  const out = fresh();
  await writeAdapter(out, adapter);
  // PEFT's rank_pattern: the tensors tell the rank, r only that of matrices without an entry.
  edit(out, (json) => Object.assign(json, { r: 8, rank_pattern: { v_proj: 4 } }));
  const [found, plain] = [openModel(out), openModel(base)];
  assertMerged(found, plain, [adapter]);
  edit(out, (json) => Object.assign(json, { use_rslora: true }));
  const rooted = openModel(out);
  assertMerged(rooted, plain, [{ ...adapter, alpha: 2 * Math.sqrt(4) }]);
  for (const model of [found, plain, rooted]) model.close();
});

test('alpha_pattern: the first pattern that ends a module\'s name gives its alpha', async () => {
  const base = join(MODELS, 'llama-tiny');
  const adapter = randomAdapter(base, ['q_proj', 'v_proj'], 2, 3, 1);
  const out = fresh();
  await writeAdapter(out, adapter);
  edit(out, (json) => Object.assign(json, { alpha_pattern: { proj: 99, 'layers\\.0\\..*v_proj': 16, v_proj: 5 } }));
  const [found, plain] = [openModel(out), openModel(base)];
  const alphas = { q_proj: [3, 3], v_proj: [16, 5] };
  for (const [part, values] of Object.entries(alphas)) {
    values.forEach((alpha, i) => {
      const name = `model.layers.${i}.self_attn.${part}.weight`;
      const wanted = product(plain, name, { ...adapter, alpha });
      const before = plain.read(name);
      assert.ok(found.read(name).every((x, k) => Math.abs(x - before[k]! - wanted[k]!) < 1e-5), name);
    });
  }
  for (const model of [found, plain]) model.close();
});

test('tensors stored whole take the place of the base\'s, and stay with an adapter trained on top', async () => {
  // As PEFT writes modules_to_save, bias="all", and the layers that it saves beside their own updates.
  const base = join(MODELS, 'qwen2-tiny');
  const plain = openModel(base);
  const { normals } = seeded(3);
  const [q, head, embed] = ['model.layers.0.self_attn.q_proj', 'lm_head', 'model.embed_tokens'];
  const whole: Record<string, string> = {
    [`${head}.weight`]: 'base_model.model.lm_head.base_layer.weight',
    [`${embed}.weight`]: 'base_model.model.model.embed_tokens.base_layer.weight',
    'model.norm.weight': 'base_model.model.model.norm.weight',
    [`${q}.bias`]: 'base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias',
    'model.layers.0.self_attn.k_proj.bias': 'base_model.model.model.layers.0.self_attn.k_proj.bias',
  };
  const lower = randomAdapter(base, ['q_proj', 'lm_head'], 2, 3, 1);
  for (const { name, shape } of plain.plan) {
    const size = shape.reduce((product, n) => product * n, 1);
    if (whole[name]) (lower.tensors as Map<string, Float32Array>).set(whole[name], normals(size));
    if (name !== `${embed}.weight`) continue;
    for (const [part, n] of [['A', shape[0]!], ['B', shape[1]!]] as const) {
      (lower.tensors as Map<string, Float32Array>).set(`base_model.model.${embed}.lora_embedding_${part}`, normals(2 * n));
    }
  }
  const first = fresh();
  await writeAdapter(first, lower);
  const above = { ...randomAdapter(base, ['k_proj'], 3, 8, 2), base: first };
  const second = fresh();
  await writeAdapter(second, above);

  const replaced: ModelFolder = { ...plain, read: (name) => lower.tensors.get(whole[name] ?? '') ?? plain.read(name) };
  for (const [folder, adapters] of [[first, [lower]], [second, [lower, above]]] as const) {
    const found = openModel(folder);
    assertMerged(found, replaced, [...adapters]);
    const all = found.read(`${embed}.weight`);
    assert.equal(found.read(`${embed}.weight`, 11, 50), all.slice(11, 61));
    found.close();
  }
  // PEFT looks for what it must load into a module with an update below base_layer.
  const names = openSafetensors(join(second, 'adapter_model.safetensors')).names;
  assert.ok(names.includes('base_model.model.model.layers.0.self_attn.k_proj.base_layer.bias'), names.join());
  plain.close();
});

test('an adapter that changes one of two tied matrices unties them, as in PEFT', async () => {
  const base = join(MODELS, 'llama-tiny');
  const plain = openModel(base);
  assert.ok(plain.config.tied);
  const { name, shape } = plain.plan[0]!;
  const [embedding, old] = [seeded(5).normals(shape[0]! * shape[1]!), plain.read(name)];
  const [rows, width] = shape as [number, number];
  const updates = (part: string, input: number, out: number): [string, Float32Array][] =>
    [['A', 2 * input], ['B', 2 * out]].map(([ab, n]) => [`base_model.model.${part}${ab}`, seeded(6).normals(n as number)]);
  const head = updates('lm_head.lora_', width, rows).map(([key, values]): [string, Float32Array] => [`${key}.weight`, values]);
  const wholeEmbedding: [string, Float32Array] = [`base_model.model.${name}`, embedding];
  const cases: [[string, Float32Array][], string[] | null, boolean, 'new' | 'old' | 'other', 'new' | 'old' | 'other'][] = [
    [[wholeEmbedding], ['embed_tokens'], false, 'new', 'old'],
    [[['base_model.model.lm_head.weight', embedding]], ['lm_head'], false, 'old', 'new'],
    [head, null, false, 'old', 'other'],
    [updates(`${name.replace('.weight', '')}.lora_embedding_`, rows, width), null, false, 'other', 'old'],
    // save_embedding_layers alone: the one matrix that both are.
    [[wholeEmbedding], null, true, 'new', 'new'],
  ];
  for (const [tensors, saved, tied, input, output] of cases) {
    const out = fresh();
    const adapter = randomAdapter(base, ['v_proj'], 2, 2, 1);
    for (const [key, values] of tensors) (adapter.tensors as Map<string, Float32Array>).set(key, values);
    await writeAdapter(out, { ...adapter, config: { ...adapter.config, tied: false } });
    edit(out, (json) => (json['modules_to_save'] = saved));
    const second = fresh();
    const first = openModel(out);
    await writeAdapter(second, { ...randomAdapter(out, ['k_proj'], 2, 2, 2), config: first.config, base: out });
    for (const model of [first, openModel(second)]) {
      const message = `${tensors[0]![0]} in ${model.dir}`;
      assert.is(model.config.tied, tied, message);
      const [embed, unembed] = [model.read(name), tied ? model.read(name) : model.read('lm_head.weight')];
      for (const [found, due] of [[embed, input], [unembed, output]] as const) {
        const same = (wanted: Float32Array): boolean => found.every((x, i) => x === wanted[i]);
        assert.equal([same(embedding), same(old)], [due === 'new', due === 'old'], message);
      }
      model.close();
    }
  }
  plain.close();
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
