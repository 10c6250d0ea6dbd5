// What PEFT itself writes beyond two matrices an update: patterns, tensors stored whole, and tied matrices that an adapter tells apart.
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { writeAdapter } from '../../src/files/adapter_write.ts';
import { openModel, type ModelFolder } from '../../src/files/model_folder.ts';
import { openSafetensors } from '../../src/files/safetensors.ts';
import { seeded } from '../gpu/device.ts';
import { assertMerged, edit, fresh, product, randomAdapter } from './random_adapter.ts';
import { MODELS } from './temporary.ts';

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

test.run();
