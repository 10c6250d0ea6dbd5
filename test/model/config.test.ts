import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { UsageError } from '../../src/errors.ts';
import { configFromHf, configToHf, parameterCount, tensorPlan } from '../../src/model/config.ts';
import { rotaryTable } from '../../src/model/rotary.ts';
import { FUZZ_CASES, seeded } from '../files/mutate.ts';
import { MODELS } from '../files/temporary.ts';

type Json = Record<string, unknown>;
const load = (dir: string) => JSON.parse(readFileSync(join(MODELS, dir, 'config.json'), 'utf8')) as Json;

const gpt2 = { model_type: 'gpt2', vocab_size: 50, n_embd: 12, n_layer: 2, n_head: 3, n_positions: 16 };
const llama = {
  model_type: 'llama',
  vocab_size: 50,
  hidden_size: 12,
  intermediate_size: 20,
  num_hidden_layers: 2,
  num_attention_heads: 3,
  max_position_embeddings: 16,
};
const qwen2 = { ...llama, model_type: 'qwen2', num_key_value_heads: 1 };

function refused(json: Json, pattern: RegExp): void {
  try {
    configFromHf(json, 'm/config.json');
  } catch (error) {
    assert.instance(error, UsageError);
    assert.match((error as Error).message, pattern);
    assert.match((error as Error).message, /^m\/config.json: [^\n]+$/);
    return;
  }
  assert.unreachable(`accepted, but ${pattern} was due`);
}

test('an activation that the family\'s layers do not have is refused in its file', () => {
  for (const activation_function of ['silu', 'swish', 'relu', 'quick_gelu']) {
    refused({ ...gpt2, activation_function }, new RegExp(`activation_function: "${activation_function}" is not supported .supported: gelu_new, gelu_pytorch_tanh, gelu.`));
  }
  refused({ ...llama, hidden_act: 'gelu' }, /hidden_act: "gelu" is not supported .supported: silu, swish/);
});

test('missing keys have the defaults of transformers', () => {
  const g = configFromHf(gpt2, 'f');
  assert.is(g.hidden, 48);
  assert.is(g.normEps, 1e-5);
  assert.is(g.activation, 'gelu_new');
  assert.is(g.tied, true);
  assert.is(g.headDim, 4);
  const l = configFromHf(llama, 'f');
  assert.is(l.kvHeads, 3);
  assert.is(l.headDim, 4);
  assert.is(l.normEps, 1e-6);
  assert.is(l.ropeTheta, 10000);
  assert.is(l.tied, false);
  assert.equal(l.bias, { qkv: false, attnOut: false, mlp: false });
  assert.is(l.ropeScaling, undefined);
  const q = configFromHf(qwen2, 'f');
  assert.equal(q.bias, { qkv: true, attnOut: false, mlp: false });
  assert.is(q.tied, false);
  assert.equal(configFromHf({ ...llama, attention_bias: true, mlp_bias: true }, 'f').bias, {
    qkv: true,
    attnOut: true,
    mlp: true,
  });
});

test('null counts as missing, except where transformers tells them apart', () => {
  assert.is(configFromHf({ ...gpt2, n_inner: null }, 'f').hidden, 48);
  assert.is(configFromHf({ ...llama, head_dim: null, num_key_value_heads: null, rope_scaling: null }, 'f').headDim, 4);
  const { num_key_value_heads: _, ...bare } = qwen2;
  refused(bare, /num_key_value_heads: 32 does not divide the 3 heads/);
});

test('special ids: lists, negative and out-of-range ids', () => {
  const ids = configFromHf({ ...llama, bos_token_id: 1, eos_token_id: [2, 7], pad_token_id: -1 }, 'f');
  assert.equal([ids.bosId, ids.eosId, ids.padId], [1, 2, undefined]);
  assert.is(configFromHf({ ...gpt2, eos_token_id: 50256 }, 'f').eosId, undefined);
  refused({ ...gpt2, eos_token_id: 'x' }, /eos_token_id: must be a token id, but is "x"/);
  refused({ ...gpt2, eos_token_id: 1.5 }, /eos_token_id/);
});

test('rope scaling: llama3 and linear, old and new key names; other kinds refused by name', () => {
  const scaled = load('variants/llama3-rope-headdim-f16');
  const llama3 = { kind: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalContext: 16 };
  const config = configFromHf(scaled, 'f');
  assert.equal(config.ropeScaling, llama3);
  assert.is(config.ropeTheta, 500000);
  assert.is(config.headDim, 8);
  const { rope_scaling, rope_theta, ...rest } = scaled;
  const renamed = { ...rest, rope_parameters: { ...(rope_scaling as Json), rope_theta } };
  assert.equal(configFromHf(renamed, 'f'), config);
  assert.equal(configFromHf({ ...llama, rope_scaling: { type: 'linear', factor: 2 } }, 'f').ropeScaling, {
    kind: 'linear',
    factor: 2,
  });
  assert.is(configFromHf({ ...llama, rope_scaling: { rope_type: 'default' } }, 'f').ropeScaling, undefined);
  refused({ ...llama, rope_scaling: { rope_type: 'longrope', factor: 4 } }, /rope_scaling: rope_type "longrope" is not supported/);
  refused({ ...llama, rope_scaling: { rope_type: 'yarn', factor: 4, beta_fast: 1, beta_slow: 2 } }, /beta_fast: 1 must not be smaller/);
  refused({ ...llama, rope_scaling: { rope_type: 'yarn', factor: 4, truncate: 1 } }, /truncate: must be true or false, but is 1/);
  refused({ ...llama, rope_scaling: { rope_type: 'llama3', factor: 4 } }, /low_freq_factor/);
  refused({ ...llama, rope_scaling: 7 }, /rope_scaling: must be an object/);
  refused({ ...llama, rope_scaling: { rope_type: 'linear' } }, /factor: must be a positive number, but is nothing/);
  refused({ ...llama, partial_rotary_factor: 0.5 }, /partial_rotary_factor/);
});

test('yarn and dynamic scaling: the frequencies of transformers, also of a config that was written again', () => {
  // transformers 5.24's ROPE_INIT_FUNCTIONS['yarn'] for heads of 16 channels: frequencies, factor of cosines and sines.
  const cases: [Json, number, number[], number][] = [
    [{ rope_type: 'yarn', factor: 4, original_max_position_embeddings: 16 }, 10000,
      [1, 0.07905694, 0.025, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-5], 1.138629436111989],
    // Without an original context it is the context, 64.
    [{ type: 'yarn', factor: 4, beta_fast: 4, beta_slow: 0.5, attention_factor: 1.3 }, 500,
      [1, 0.4598633, 0.1586057, 0.04862462, 0.01118034, 0.005141428, 0.002364354, 0.00108728], 1.3],
    [{ rope_type: 'yarn', factor: 2, original_max_position_embeddings: 1024, mscale: 0.7, mscale_all_dim: 0.4, truncate: false }, 10000,
      [1, 0.3162278, 0.09026576, 0.02329211, 0.005704647, 0.001581139, 0.0005, 0.0001581139], 1.0202334257367],
    // No row goes beyond the context, from where on dynamic scaling begins.
    [{ rope_type: 'dynamic', factor: 4 }, 10000, Array.from({ length: 8 }, (_, i) => 10000 ** (-i / 8)), 1],
  ];
  for (const [rope_scaling, rope_theta, frequencies, scale] of cases) {
    const read = configFromHf({ ...llama, head_dim: 16, max_position_embeddings: 64, rope_theta, rope_scaling }, 'f');
    const config = configFromHf(configToHf(read, 'lm'), 'f');
    assert.equal(config, read);
    const table = rotaryTable(config);
    for (const t of [0, 1, 63]) {
      frequencies.forEach((f, i) => {
        // Seven digits of a frequency, times 63.
        assert.ok(Math.abs(table[t * 16 + i]! - scale * Math.cos(t * f)) < 1e-5, `${JSON.stringify(rope_scaling)}: cosine ${t}, ${i}`);
        assert.ok(Math.abs(table[t * 16 + 8 + i]! - scale * Math.sin(t * f)) < 1e-5, `${JSON.stringify(rope_scaling)}: sine ${t}, ${i}`);
      });
    }
  }
});

test('what would change the numbers is refused by name', () => {
  refused(
    { ...gpt2, model_type: 'mistral' },
    /model_type "mistral" is not supported \(supported: gpt2, llama, qwen2\)/,
  );
  refused({}, /model_type is missing/);
  refused({ ...gpt2, model_type: { a: 1 } }, /model_type an object/);
  refused({ ...llama, quantization_config: { quant_method: 'gptq' } }, /quantization_config \(quant_method "gptq"\)/);
  refused({ ...gpt2, scale_attn_by_inverse_layer_idx: true }, /scale_attn_by_inverse_layer_idx: true is not supported/);
  refused({ ...gpt2, scale_attn_weights: false }, /scale_attn_weights: false/);
  refused({ ...gpt2, activation_function: 'relu' }, /activation_function: "relu"/);
  refused({ ...gpt2, activation_function: 'constructor' }, /activation_function/);
  refused({ ...llama, hidden_act: 'gelu' }, /hidden_act: "gelu"/);
  const sliding = { ...qwen2, use_sliding_window: true, sliding_window: 8 };
  refused({ ...sliding, max_window_layers: 1 }, /use_sliding_window/);
  refused({ ...sliding, layer_types: ['full_attention', 'sliding_attention'] }, /use_sliding_window/);
  configFromHf({ ...sliding, max_window_layers: 2 }, 'f');
  configFromHf({ ...sliding, max_window_layers: 1, sliding_window: 16 }, 'f');
  configFromHf({ ...qwen2, use_sliding_window: false, sliding_window: 8, max_window_layers: 0 }, 'f');
});

test('absurd sizes, missing keys and wrong types name the key', () => {
  for (const key of Object.keys(llama)) {
    const { [key]: _, ...rest } = llama as Json;
    refused(rest, new RegExp(`${key}:? is missing`));
  }
  for (const value of [0, -1, 1.5, 1e12, '12', [], {}, true, Number.MAX_VALUE]) {
    refused({ ...llama, hidden_size: value }, /hidden_size: must be a whole number from 1 to 65536/);
    refused({ ...gpt2, n_layer: value }, /n_layer: must be/);
  }
  refused({ ...gpt2, n_head: 5 }, /n_head: 5 does not divide n_embd 12/);
  refused({ ...llama, num_key_value_heads: 2 }, /num_key_value_heads: 2 does not divide/);
  refused({ ...llama, head_dim: 5 }, /head_dim: 5 is odd/);
  refused({ ...llama, rms_norm_eps: 0 }, /rms_norm_eps/);
  refused({ ...llama, rope_theta: 'big' }, /rope_theta/);
  refused({ ...llama, tie_word_embeddings: 'yes' }, /tie_word_embeddings: must be true or false, but is "yes"/);
});

test('configToHf and back is the same model, for every fixture and both heads', () => {
  const dirs = [
    'gpt2-tiny',
    'llama-tiny',
    'qwen2-tiny',
    'stories260K',
    'gpt2-rm-tiny',
    'variants/llama3-rope-headdim-f16',
  ];
  for (const dir of dirs) {
    const config = configFromHf(load(dir), dir);
    for (const head of ['lm', 'reward'] as const) {
      const written = configToHf(config, head, { dtype: 'bfloat16' });
      assert.equal(configFromHf(written, dir), config);
      assert.is(written['dtype'], 'bfloat16');
      assert.equal(written['id2label'], head === 'reward' ? { 0: 'LABEL_0' } : undefined);
    }
  }
});

test('unknown keys of the source are carried, stale ones are not', () => {
  const source = {
    ...gpt2,
    attn_pdrop: 0.1,
    _name_or_path: 'x',
    torch_dtype: 'float16',
    id2label: { 0: 'a', 1: 'b' },
    eos_token_id: [3, 4],
  };
  const written = configToHf(configFromHf(source, 'f'), 'lm', {}, source);
  assert.is(written['attn_pdrop'], 0.1);
  assert.equal(written['eos_token_id'], [3, 4]);
  for (const key of ['_name_or_path', 'torch_dtype', 'id2label']) assert.not(key in written, key);
});

test('the tensor plan: names, shapes and counts', () => {
  const plan = tensorPlan(configFromHf(gpt2, 'f'), 'reward');
  assert.is(plan.at(-1)!.name, 'score.weight');
  assert.equal(plan.at(-1)!.shape, [1, 12]);
  const byName = new Map(plan.map((t) => [t.name, t]));
  assert.equal(byName.get('transformer.h.1.attn.c_attn.weight')!.shape, [12, 36]);
  assert.is(byName.get('transformer.h.1.attn.c_proj.weight')!.init, 'residual');
  for (const t of plan) {
    assert.is(t.decay, t.shape.length === 2);
    assert.is(t.layout !== undefined, t.kind === 'matrix');
  }
  const q = tensorPlan(configFromHf(qwen2, 'f'), 'lm');
  assert.is(q.filter((t) => t.name.endsWith('.bias')).length, 6);
  assert.is(q.at(-1)!.name, 'lm_head.weight');
  // GPT-2 small and SmolLM2-135M have these well-known sizes.
  const small = { ...gpt2, vocab_size: 50257, n_embd: 768, n_layer: 12, n_head: 12, n_positions: 1024 };
  assert.is(parameterCount(configFromHf(small, 'f'), 'lm'), 124_439_808);
  const smol = {
    ...llama,
    vocab_size: 49152,
    hidden_size: 576,
    intermediate_size: 1536,
    num_hidden_layers: 30,
    num_attention_heads: 9,
    num_key_value_heads: 3,
    tie_word_embeddings: true,
    max_position_embeddings: 8192,
  };
  assert.is(parameterCount(configFromHf(smol, 'f'), 'lm'), 134_515_008);
});

test(`${FUZZ_CASES} configs with random values give a config or a UsageError`, () => {
  const random = seeded(3);
  const values = [
    null,
    -1,
    0,
    1,
    3.5,
    1e9,
    1e308,
    '',
    'llama3',
    [],
    [1],
    {},
    { rope_type: 'llama3' },
    true,
    false,
    2,
    64,
    'gelu',
    NaN,
  ];
  const sources = ['gpt2-tiny', 'llama-tiny', 'qwen2-tiny', 'variants/llama3-rope-headdim-f16'].map(load);
  let accepted = 0;
  for (let n = 0; n < FUZZ_CASES; n++) {
    const json = { ...sources[random(sources.length)]! };
    const keys = Object.keys(json);
    for (let m = 1 + random(3); m > 0; m--) {
      const key = keys[random(keys.length)]!;
      if (random(5) === 0) delete json[key];
      else json[key] = values[random(values.length)];
    }
    try {
      const config = configFromHf(json, 'f');
      assert.ok(parameterCount(config, 'lm') > 0);
      accepted++;
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
    }
  }
  assert.ok(accepted > 0 && accepted < FUZZ_CASES);
});

test.run();
