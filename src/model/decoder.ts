import { UsageError } from '../errors.ts';
import { attention, rotary } from '../gpu/ops/attention.ts';
import { embedding, type Occurrences } from '../gpu/ops/embedding.ts';
import { geluMlp, linear, type LinearOptions } from '../gpu/ops/linear.ts';
import type { LowRank } from '../gpu/ops/low_rank.ts';
import { norm } from '../gpu/ops/norm.ts';
import { swiglu } from '../gpu/ops/swiglu.ts';
import { Tape, type Parameter } from '../gpu/tape.ts';
import { persistent, upload, type Tensor } from '../gpu/tensor.ts';
import type { ModelConfig } from './config.ts';
import { rotaryTable } from './rotary.ts';
import type { Weights } from './weights.ts';

/** Rows of tokens, one after the other without padding between them: N tokens in all. */
export interface PackedTokens {
  /** [N] token ids. */
  ids: Tensor;
  /** [N] place of each token in its row. */
  positions: Tensor;
  /** [T,4] attention tiles (attentionTiles). */
  tiles: Tensor;
  /** For gradients: which tokens have which id, and which position where positions are learned. */
  idRuns?: Occurrences;
  positionRuns?: Occurrences;
}

/** What a layer does with queries, keys and values [N, (H+2·kv)·D] → [N, H·D]: attention over packed rows, or over a cache. */
export type Attend = (tape: Tape, qkv: Tensor, layer: number) => Tensor;

/** Adds a branch's result to the residual stream, where something stands between them (dropout); else it is fused. */
export type Join = (tape: Tape, branch: Tensor, residual: Tensor, site: number) => Tensor;

export interface DecoderOptions {
  attend?: Attend;
  join?: Join;
}

/** Low-rank updates of some weights, and a head in place of the weights' own. */
export interface Adapter {
  /** The update of the weight of this key. */
  update(key: string): LowRank | undefined;
  find(key: 'score.weight'): Parameter | undefined;
}

/** A decoder-only transformer (GPT-2's or Llama's block): its weights and the rotary table. */
export class Decoder {
  readonly rotaryTable?: Tensor;
  /** Takes part in whatever is recorded while it is set. */
  adapter?: Adapter;
  /** Training passes recorded while it is set keep each layer's input only and compute the rest again. */
  recompute = false;

  constructor(readonly config: ModelConfig, readonly weights: Weights, table?: Tensor) {
    if (!config.gated && config.activation === 'silu') {
      throw new UsageError(`${config.family}: activation silu without a gate is not supported`, 'supported: gelu_new, gelu, and silu with a gate');
    }
    this.rotaryTable = table;
    if (config.positions === 'rope' && !table) {
      this.rotaryTable = persistent(config.context, config.headDim, config.headDim);
      upload(this.rotaryTable, rotaryTable(config));
    }
  }

  /** The unembedding matrix [V,C]. */
  get unembedding(): Parameter {
    const { weights, config } = this;
    if (!config.tied) return weights.get('lm_head.weight');
    return weights.get(config.family === 'gpt2' ? 'transformer.wte.weight' : 'model.embed_tokens.weight');
  }

  /** The scalar head [1,C] of a reward or value model. */
  get scalarHead(): Parameter {
    return this.adapter?.find('score.weight') ?? this.weights.get('score.weight');
  }

  /** The same weights without the adapter. */
  withoutAdapter(): Decoder {
    return new Decoder(this.config, this.weights, this.rotaryTable);
  }

  /** A product with a weight and, where it has one, its low-rank update. */
  private linear(tape: Tape, x: Tensor, w: Parameter, options: LinearOptions): Tensor {
    return linear(tape, x, w, { ...options, lora: this.adapter?.update(w.name) });
  }

  /** Hidden states after the last norm [N,C] of packed rows. */
  hidden(tape: Tape, tokens: PackedTokens, options: DecoderOptions = {}): Tensor {
    return this.config.family === 'gpt2' ? this.gpt2(tape, tokens, options) : this.llama(tape, tokens, options);
  }

  private gpt2(tape: Tape, tokens: PackedTokens, options: DecoderOptions): Tensor {
    const { config, weights } = this;
    const w = (name: string): Parameter => weights.get(`transformer.${name}`);
    let x = embedding(tape, tokens.ids, w('wte.weight'), tokens.idRuns,
      { at: tokens.positions, positions: w('wpe.weight'), runs: tokens.positionRuns }); // [N,C]
    for (let i = 0; i < config.layers; i++) x = this.layer(tape, x, (inner, input) => this.gpt2Layer(inner, input, i, tokens, options));
    const h = norm(tape, x, 'layer', w('ln_f.weight'), w('ln_f.bias'), config.normEps);
    tape.done(x);
    return h;
  }

  private gpt2Layer(tape: Tape, x: Tensor, i: number, tokens: PackedTokens, { attend, join }: DecoderOptions): Tensor {
    const { config, weights } = this;
    const layout = 'in_out';
    const p = (name: string): Parameter => weights.get(`transformer.h.${i}.${name}`);
    const update = (name: string): LowRank | undefined => this.adapter?.update(`transformer.h.${i}.${name}.weight`);
    const a = norm(tape, x, 'layer', p('ln_1.weight'), p('ln_1.bias'), config.normEps);
    const qkv = this.linear(tape, a, p('attn.c_attn.weight'), { layout, bias: p('attn.c_attn.bias') }); // [N,3C]
    tape.done(a);
    const o = attend ? attend(tape, qkv, i) : attention(tape, qkv, config, tokens.tiles); // [N,C]
    tape.done(qkv);
    const y = branch(tape, x, join, 2 * i + 1,
      (residual) => this.linear(tape, o, p('attn.c_proj.weight'), { layout, bias: p('attn.c_proj.bias'), residual }));
    tape.done(o);
    const b = norm(tape, y, 'layer', p('ln_2.weight'), p('ln_2.bias'), config.normEps);
    const gelu = config.activation === 'gelu' ? 'erf' : 'tanh';
    const z = branch(tape, y, join, 2 * i + 2, (residual) => geluMlp(tape, b, p('mlp.c_fc.weight'), p('mlp.c_fc.bias'),
      p('mlp.c_proj.weight'), p('mlp.c_proj.bias'),
      { layout, gelu, residual, upLora: update('mlp.c_fc'), downLora: update('mlp.c_proj') }));
    tape.done(b, y);
    return z;
  }

  private llama(tape: Tape, tokens: PackedTokens, options: DecoderOptions): Tensor {
    const { config, weights } = this;
    let x = embedding(tape, tokens.ids, weights.get('model.embed_tokens.weight'), tokens.idRuns); // [N,C]
    for (let i = 0; i < config.layers; i++) x = this.layer(tape, x, (inner, input) => this.llamaLayer(inner, input, i, tokens, options));
    const h = norm(tape, x, 'rms', weights.get('model.norm.weight'), undefined, config.normEps);
    tape.done(x);
    return h;
  }

  private llamaLayer(tape: Tape, x: Tensor, i: number, tokens: PackedTokens, { attend, join }: DecoderOptions): Tensor {
    const { config, weights } = this;
    const layout = 'out_in';
    const name = (part: string): string => `model.layers.${i}.${part}`;
    const p = (part: string): Parameter => weights.get(name(part));
    const bias = (part: string): Parameter | undefined => weights.find(name(part));
    const a = norm(tape, x, 'rms', p('input_layernorm.weight'), undefined, config.normEps);
    const qkv = this.linear(tape, a, p('self_attn.qkv.weight'), { layout, bias: bias('self_attn.qkv.bias') }); // [N,(H+2·kv)·D]
    tape.done(a);
    rotary(tape, qkv, config, this.rotaryTable!, tokens.positions);
    const o = attend ? attend(tape, qkv, i) : attention(tape, qkv, config, tokens.tiles); // [N,H·D]
    tape.done(qkv);
    const y = branch(tape, x, join, 2 * i + 1,
      (residual) => this.linear(tape, o, p('self_attn.o_proj.weight'), { layout, bias: bias('self_attn.o_proj.bias'), residual }));
    tape.done(o);
    const b = norm(tape, y, 'rms', p('post_attention_layernorm.weight'), undefined, config.normEps);
    const gateUp = this.linear(tape, b, p('mlp.gate_up.weight'), { layout, bias: bias('mlp.gate_up.bias') }); // [N,2F]
    tape.done(b);
    const f = swiglu(tape, gateUp); // [N,F]
    tape.done(gateUp);
    const z = branch(tape, y, join, 2 * i + 2,
      (residual) => this.linear(tape, f, p('mlp.down_proj.weight'), { layout, bias: bias('mlp.down_proj.bias'), residual }));
    tape.done(f, y);
    return z;
  }

  /** A layer on the tape: with all that its gradient needs, or with its input alone, to be computed again in the backward pass. */
  private layer(tape: Tape, x: Tensor, f: (inner: Tape, input: Tensor) => Tensor): Tensor {
    const y = tape.training && this.recompute ? checkpointed(tape, x, f) : f(tape, x);
    tape.done(x);
    return y;
  }
}

/** Gradient checkpointing (Chen et al. 2016): f(x) without keeping anything but x; the backward pass runs f once more. */
function checkpointed(tape: Tape, x: Tensor, f: (inner: Tape, input: Tensor) => Tensor): Tensor {
  const y = f(new Tape(false, tape.storage), x);
  tape.push([x], () => {
    const again = new Tape(true, tape.storage);
    const output = f(again, x);
    again.give(output, tape.take(y));
    again.done(output);
    tape.give(x, again.backward(x)!);
  });
  return y;
}

/** residual + f(…): added in the product's store, or by `join` afterwards. */
function branch(tape: Tape, residual: Tensor, join: Join | undefined, site: number, f: (residual?: Tensor) => Tensor): Tensor {
  if (!join) return f(residual);
  const result = f();
  const joined = join(tape, result, residual, site);
  tape.done(result);
  return joined;
}
