import type { Head, ModelConfig } from './config.ts';

/** One parameter tensor of a model, as it is stored, kept on the device and named in optimiser state. */
export interface PlannedTensor {
  /** The name that transformers gives it in the class with this head. */
  name: string;
  shape: number[];
  kind: 'matrix' | 'vector' | 'embedding';
  /** Matrices only: Linear keeps [out, in] (y = x Wᵀ), GPT-2's Conv1D [in, out] (y = x W). */
  layout?: 'out_in' | 'in_out';
  /** Weight decay applies: tensors of two dimensions, embeddings included. */
  decay: boolean;
  /**
   * How a fresh model draws it: normal(0, initializerRange); residual = normal(0, initializerRange / √(2 · layers)),
   * which GPT-2 does where a branch joins the residual stream; head = normal(0, 1/√(C+1)).
   */
  init: 'normal' | 'residual' | 'zeros' | 'ones' | 'head';
}

/** All parameter tensors of a model in a fixed order: embeddings, layers from the first on, last norm, head. */
export function tensorPlan(config: ModelConfig, head: Head): PlannedTensor[] {
  return config.family === 'gpt2' ? gpt2Plan(config, head) : llamaPlan(config, head);
}

/** How many numbers the model has. */
export function parameterCount(config: ModelConfig, head: Head): number {
  return tensorPlan(config, head).reduce((sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1), 0);
}

function embedding(name: string, rows: number, width: number): PlannedTensor {
  return { name, shape: [rows, width], kind: 'embedding', decay: true, init: 'normal' };
}

function vector(name: string, size: number, init: 'zeros' | 'ones'): PlannedTensor {
  return { name, shape: [size], kind: 'vector', decay: false, init };
}

function headTensors({ tied, vocabSize, width }: ModelConfig, head: Head): PlannedTensor[] {
  const matrix = { kind: 'matrix', layout: 'out_in', decay: true } as const;
  if (head === 'reward') return [{ name: 'score.weight', shape: [1, width], ...matrix, init: 'head' }];
  return tied ? [] : [{ name: 'lm_head.weight', shape: [vocabSize, width], ...matrix, init: 'normal' }];
}

function gpt2Plan(config: ModelConfig, head: Head): PlannedTensor[] {
  const { width: C, hidden } = config;
  const linear = (name: string, input: number, output: number, init: 'normal' | 'residual'): PlannedTensor[] => [
    { name: `${name}.weight`, shape: [input, output], kind: 'matrix', layout: 'in_out', decay: true, init },
    vector(`${name}.bias`, output, 'zeros'),
  ];
  const norm = (name: string) => [vector(`${name}.weight`, C, 'ones'), vector(`${name}.bias`, C, 'zeros')];
  const plan = [
    embedding('transformer.wte.weight', config.vocabSize, C),
    embedding('transformer.wpe.weight', config.context, C),
  ];
  for (let i = 0; i < config.layers; i++) {
    const layer = `transformer.h.${i}`;
    plan.push(
      ...norm(`${layer}.ln_1`),
      ...linear(`${layer}.attn.c_attn`, C, 3 * C, 'normal'),
      ...linear(`${layer}.attn.c_proj`, C, C, 'residual'),
      ...norm(`${layer}.ln_2`),
      ...linear(`${layer}.mlp.c_fc`, C, hidden, 'normal'),
      ...linear(`${layer}.mlp.c_proj`, hidden, C, 'residual'),
    );
  }
  return [...plan, ...norm('transformer.ln_f'), ...headTensors(config, head)];
}

function llamaPlan(config: ModelConfig, head: Head): PlannedTensor[] {
  const { width: C, hidden, heads, kvHeads, headDim, bias } = config;
  const linear = (name: string, input: number, output: number, withBias: boolean): PlannedTensor[] => [
    { name: `${name}.weight`, shape: [output, input], kind: 'matrix', layout: 'out_in', decay: true, init: 'normal' },
    ...(withBias ? [vector(`${name}.bias`, output, 'zeros')] : []),
  ];
  const plan = [embedding('model.embed_tokens.weight', config.vocabSize, C)];
  for (let i = 0; i < config.layers; i++) {
    const layer = `model.layers.${i}`;
    plan.push(
      vector(`${layer}.input_layernorm.weight`, C, 'ones'),
      ...linear(`${layer}.self_attn.q_proj`, C, heads * headDim, bias.qkv),
      ...linear(`${layer}.self_attn.k_proj`, C, kvHeads * headDim, bias.qkv),
      ...linear(`${layer}.self_attn.v_proj`, C, kvHeads * headDim, bias.qkv),
      ...linear(`${layer}.self_attn.o_proj`, heads * headDim, C, bias.attnOut),
      vector(`${layer}.post_attention_layernorm.weight`, C, 'ones'),
      ...linear(`${layer}.mlp.gate_proj`, C, hidden, bias.mlp),
      ...linear(`${layer}.mlp.up_proj`, C, hidden, bias.mlp),
      ...linear(`${layer}.mlp.down_proj`, hidden, C, bias.mlp),
    );
  }
  return [...plan, vector('model.norm.weight', C, 'ones'), ...headTensors(config, head)];
}
