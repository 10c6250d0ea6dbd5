import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeModel } from '../../src/files/model_folder.ts';
import { configFromHf, tensorPlan, type Head, type ModelConfig } from '../../src/model/config.ts';
import { seeded } from '../gpu/device.ts';

const llama = {
  hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2,
  max_position_embeddings: 64, eos_token_id: 513, pad_token_id: 1,
};
/** Small shapes of each family, with what GGUF keeps in a way of its own. */
export const SHAPES: Record<string, object> = {
  llama: { ...llama, model_type: 'llama', tie_word_embeddings: false, head_dim: 6, rope_theta: 5e5, attention_bias: true },
  linear: { ...llama, model_type: 'llama', tie_word_embeddings: true, rope_scaling: { rope_type: 'linear', factor: 2.5 } },
  qwen2: { ...llama, model_type: 'qwen2', tie_word_embeddings: true },
  gpt2: { model_type: 'gpt2', n_embd: 32, n_layer: 2, n_head: 4, n_positions: 64, eos_token_id: 513, pad_token_id: 1 },
};

/** tokenizer.json and tokenizer_config.json of a fixture folder. */
export function tokenizerJson(name: string): { tokenizer: Record<string, unknown>; settings: Record<string, unknown> } {
  const from = join(process.env['RLHF_ROOT']!, 'test/fixtures/text', name);
  const read = (file: string) => JSON.parse(readFileSync(join(from, file), 'utf8')) as Record<string, unknown>;
  return { tokenizer: read('tokenizer.json'), settings: read('tokenizer_config.json') };
}

/** Writes a model of random weights with a tokenizer of 514 tokens (ChatML's), whose parts may be replaced. */
export async function writeRandomModel(dir: string, shape: object, head: Head = 'lm', change: object = {}): Promise<ModelConfig> {
  mkdirSync(dir, { recursive: true });
  const config = configFromHf({ vocab_size: 520, ...shape }, dir);
  const { normals } = seeded(17);
  const { tokenizer, settings } = tokenizerJson('chat/chatml');
  const size = (dims: number[]): number => dims.reduce((product, n) => product * n, 1);
  await writeModel(dir, {
    config,
    head,
    tensors: tensorPlan(config, head).map(({ name, shape: dims }) => ({ name, shape: dims, data: normals(size(dims)) })),
    tokenizerFrom: {
      'tokenizer.json': JSON.stringify({ ...tokenizer, ...change }),
      'tokenizer_config.json': JSON.stringify(settings),
    },
  });
  return config;
}
