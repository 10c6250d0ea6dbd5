import { Arrivals } from '../data/arrivals.ts';
import { RunError } from '../errors.ts';
import { attentionDecode, cacheCopy, cacheWrite, decodeAdvance, decodeInput, freeCache, layerCache, type DecodeState, type LayerCache } from '../gpu/ops/decode.ts';
import { attention } from '../gpu/ops/attention.ts';
import { gather, NONE } from '../gpu/ops/gather.ts';
import { sample, SAMPLER_SETTINGS_LENGTH, samplerSettings, type SamplerSettings } from '../gpu/ops/sampler.ts';
import { logitsOf } from '../gpu/ops/token_logprob.ts';
import { record, type Program } from '../gpu/program.ts';
import { Tape } from '../gpu/tape.ts';
import { destroy, persistent, scratch, stage, upload, vector, type Staged, type Tensor } from '../gpu/tensor.ts';
import { gpu } from '../gpu/device.ts';
import { defaultMicroBatchTokens, microBatches } from '../train/micro_batches.ts';
import { BatchTensors, packRows, shapeKey, shapeOf, type BatchShape, type PackRow } from './batch.ts';
import type { Decoder } from './decoder.ts';
import { MOST_PASSES } from './passes.ts';
import { Recent } from './recent.ts';

/** A prompt to be continued. The triple (row, sample, draw number) names every random number, whatever is beside it. */
export interface Request {
  prompt: ArrayLike<number>;
  /** Number of the prompt's row in the whole input. */
  row: number;
  /** Which of the row's responses this is. */
  sample: number;
  maxNewTokens: number;
}

/** A finished response; `ids` ends with the end token if `finish` is `stop`. */
export interface Response {
  request: Request;
  ids: number[];
  finish: 'stop' | 'length';
}

export interface GeneratorOptions {
  /** Responses decoded side by side. */
  slots: number;
  /** Most tokens that a prompt and its response have together. */
  length: number;
  /** Tokens at which a response ends. */
  ends: readonly number[];
  /** Ends a response for other reasons (stop texts): looks at the tokens so far and returns how many to keep. */
  cut?: (ids: readonly number[]) => number | undefined;
  /** Is shown the tokens so far, every few steps. */
  watch?: (request: Request, ids: readonly number[]) => void;
  /** Milliseconds for which free slots wait for a request while others hold one; without end if absent. */
  patience?: number;
}

const STEPS = 8; // decoding steps between two looks at which responses have ended

interface Slot {
  request: Request;
  /** Most tokens to draw. */
  limit: number;
  /** Tokens drawn by what has been submitted, unless the response ends before. */
  submitted: number;
}

/** Steps on their way: what slots held when they were submitted, and their state afterwards. */
interface Block { active: readonly (readonly [number, Slot])[]; staged: Staged }

/**
 * Decodes responses in slots of a KV cache: a slot whose response has ended takes the next waiting prompt. Tokens stay on
 * the device from step to step. A response depends on its prompt, its key and the settings alone.
 */
export class Generator {
  private readonly caches: LayerCache[];
  private readonly decode: DecodeState;
  private readonly settings = vector(SAMPLER_SETTINGS_LENGTH);
  private readonly steps = new Map<number, Promise<Program<{ rows: Tensor }>>>();
  private readonly prefills = new Recent<Promise<Program<{ input: BatchTensors; slots: Tensor; rows: Tensor }>>>(MOST_PASSES,
    (made) => void made.then((program) => {
      const { input, slots, rows } = program.result;
      program.discard();
      input.dispose();
      destroy(slots, rows);
    }));
  private copying?: Promise<Program<Tensor>>;
  private readonly length: number;

  constructor(private readonly decoder: Decoder, private readonly options: GeneratorOptions) {
    const { config } = decoder;
    const { slots, ends } = options;
    this.length = Math.min(config.context, options.length);
    this.caches = Array.from({ length: config.layers }, () => layerCache(slots * this.length, config, decoder.weights.storage));
    this.decode = {
      state: persistent(slots, 8),
      limits: vector(slots),
      ends: vector(Math.max(1, ends.length)),
      drawn: persistent(slots, this.length, this.length),
    };
    upload(this.decode.ends, Uint32Array.from(ends.length > 0 ? ends : [NONE]));
  }

  /** Continues all requests; responses come in the order in which they end. */
  async *run(requests: Iterable<Request> | AsyncIterable<Request>, settings: SamplerSettings): AsyncGenerator<Response> {
    upload(this.settings, samplerSettings(settings));
    const arrivals = new Arrivals(requests);
    const slots: (Slot | undefined)[] = new Array(this.options.slots).fill(undefined);
    let exhausted = false;
    const blocks: Block[] = [];
    for (;;) {
      const fresh: number[] = [];
      for (let s = 0; s < slots.length && !exhausted; s++) {
        if (slots[s]) continue;
        const next = await arrivals.next(slots.some(Boolean) || blocks.length > 0 ? this.options.patience : Infinity);
        if (!next) break;
        if (next.done) exhausted = true;
        else {
          const { prompt, maxNewTokens } = next.value;
          slots[s] = { request: next.value, limit: Math.min(maxNewTokens, this.length - prompt.length), submitted: 1 };
          fresh.push(s);
        }
      }
      if (fresh.length > 0) await this.prefill(slots, fresh);
      const block = await this.submit(slots);
      if (block) blocks.push(block);
      if (blocks.length === 0) return;
      // A block ahead of what is read, so that the device does not wait for the host; not for the last few responses, which may
      // have ended by then.
      const ahead = block && (!exhausted || block.active.length * 4 > slots.length) ? 1 : 0;
      while (blocks.length > ahead) yield* this.finished(slots, blocks.shift()!);
    }
  }

  /** Records what answering these prompts, one each, will run at first. For planning. */
  prepare(prompts: readonly ArrayLike<number>[]): void {
    const rows = prompts.map((ids): PackRow => ({ ids, at: [ids.length - 1] }));
    for (const part of microBatches(rows, defaultMicroBatchTokens())) void this.prefillFor(shapeOf(part));
    void this.step(rowsFor(prompts.length, this.options.slots));
  }

  /** Records the decoding step that answering so many prompts will run at first; resolves when its kernels are compiled. */
  async prepareStep(prompts: number): Promise<void> {
    await this.step(rowsFor(prompts, this.options.slots));
  }

  /** Frees what it has on the device, once what has been submitted is done with it. */
  dispose(): void {
    const { caches, settings, steps, prefills, copying, decode: { state, limits, ends, drawn } } = this;
    caches.forEach(freeCache);
    destroy(settings, state, limits, ends, drawn);
    prefills.clear();
    for (const step of steps.values()) void step.then((program) => free(program, program.result.rows));
    void copying?.then((program) => free(program, program.result));
  }

  /** Submits a few decoding steps of the slots that may go on; nothing where no slot may. */
  private async submit(slots: readonly (Slot | undefined)[]): Promise<Block | undefined> {
    const held = slots.flatMap((slot, s) => (slot ? [[s, slot] as const] : []));
    const active = held.filter(([, { limit, submitted }]) => submitted < limit || submitted === 1);
    if (active.length === 0) return undefined;
    const count = Math.min(STEPS, Math.max(...active.map(([, { limit, submitted }]) => limit - submitted)));
    const step = await this.step(rowsFor(active.length, slots.length));
    const rows = new Uint32Array(step.result.rows.rows).fill(NONE);
    rows.set(active.map(([s]) => s));
    upload(step.result.rows, rows);
    for (let i = 0; i < count; i++) step.run();
    for (const [, slot] of active) slot.submitted += Math.max(1, count);
    return { active, staged: stage(this.decode.state, this.decode.drawn) };
  }

  /** Waits for a block and empties the slots whose responses have ended. */
  private async *finished(slots: (Slot | undefined)[], { active, staged }: Block): AsyncGenerator<Response> {
    const [stateBytes, drawnBytes] = await staged.read();
    const state = new Uint32Array(stateBytes);
    const drawn = new Uint32Array(drawnBytes);
    for (const [s, slot] of active) {
      if (slots[s] !== slot) continue; // ended in the block before
      const finished = state[8 * s + 7];
      if (finished === 3) throw brokenLogits(this.decoder);
      const ids = [...drawn.subarray(s * this.length, s * this.length + state[8 * s + 6])];
      const cut = this.options.cut?.(ids);
      this.options.watch?.(slot.request, cut === undefined ? ids : ids.slice(0, cut));
      if (cut === undefined && finished === 0) continue;
      slots[s] = undefined;
      yield { request: slot.request, ids: cut === undefined ? ids : ids.slice(0, cut), finish: cut !== undefined || finished === 1 ? 'stop' : 'length' };
    }
  }

  /** Runs fresh slots' prompts through the model, fills their caches and draws their first tokens. */
  private async prefill(slots: (Slot | undefined)[], fresh: number[]): Promise<void> {
    const { queue } = gpu().device;
    for (const s of fresh) {
      const { request: { prompt, row, sample: index }, limit } = slots[s]!;
      if (limit < 1) throw new Error(`a prompt of ${prompt.length} tokens leaves no room in ${this.length}`);
      const state = Uint32Array.of(0, prompt.length - 1, row >>> 0, Math.floor(row / 2 ** 32), index, 0, 0, 0);
      queue.writeBuffer(this.decode.state.buffer, s * 32, state);
      queue.writeBuffer(this.decode.limits.buffer, s * 4, Uint32Array.of(limit));
    }
    // Answers to one prompt share its pass: the first of them computes it, the others copy its cache.
    const groups: number[][] = [];
    for (const s of fresh) {
      const prompt = slots[s]!.request.prompt;
      const group = groups.at(-1);
      if (group && slots[group[0]]!.request.prompt === prompt) group.push(s);
      else groups.push([s]);
    }
    // Prompts in passes of bounded size: a row's result does not depend on how they are split.
    const rows = groups.map((group) => {
      const ids = slots[group[0]]!.request.prompt;
      return { ids, at: group.map(() => ids.length - 1), group };
    });
    for (const part of microBatches(rows, defaultMicroBatchTokens())) {
      const batch = packRows(part, this.decoder.config);
      const program = await this.prefillFor(batch.shape);
      const { input, slots: slotOf, rows: pickSlots } = program.result;
      const tokenSlots = new Uint32Array(batch.shape.tokens).fill(NONE);
      let n = 0;
      for (const { ids, group } of part) {
        tokenSlots.fill(group[0], n, n + ids.length);
        n += ids.length;
      }
      const drawRows = new Uint32Array(batch.shape.picks).fill(NONE);
      drawRows.set(part.flatMap(({ group }) => group));
      input.upload(batch);
      upload(slotOf, tokenSlots);
      upload(pickSlots, drawRows);
      program.run();
      await this.copyPrompts(part.map(({ group }) => group), part.map(({ ids }) => ids.length));
    }
  }

  /** Copies the cache of each group's first slot to its others. */
  private async copyPrompts(groups: readonly number[][], lengths: readonly number[]): Promise<void> {
    const pairs = groups.flatMap(([first, ...others], i) => others.flatMap((other) => [first, other, lengths[i], 0]));
    if (pairs.length === 0) return;
    this.copying ??= record(() => {
      const table = persistent(this.options.slots, 4);
      for (const cache of this.caches) cacheCopy(table, this.decoder.config, cache, this.length, this.length);
      return table;
    }).ready();
    const program = await this.copying;
    const table = new Uint32Array(this.options.slots * 4);
    table.set(pairs);
    upload(program.result, table);
    program.run();
  }

  private prefillFor(shape: BatchShape): Promise<Program<{ input: BatchTensors; slots: Tensor; rows: Tensor }>> {
    return this.prefills.get(shapeKey(shape), () => this.recordPrefill(shape));
  }

  private recordPrefill(shape: BatchShape): Promise<Program<{ input: BatchTensors; slots: Tensor; rows: Tensor }>> {
    const { decoder, caches, length } = this;
    const { config } = decoder;
    const input = new BatchTensors(shape, config, false);
    const slots = vector(shape.tokens);
    const rows = vector(shape.picks);
    return record(() => {
      const tape = new Tape(false, decoder.weights.storage);
      const hidden = decoder.hidden(tape, input.tokens, {
        attend: (inner, qkv, layer) => {
          cacheWrite(qkv, config, slots, input.tokens.positions, caches[layer], length);
          return attention(inner, qkv, config, input.tokens.tiles);
        },
      });
      const last = gather(tape, hidden, input.index, input.inverse);
      tape.done(hidden);
      this.draw(last, rows);
      return { input, slots, rows };
    }).ready();
  }

  private step(rows: number): Promise<Program<{ rows: Tensor }>> {
    let made = this.steps.get(rows);
    if (!made) this.steps.set(rows, (made = this.recordStep(rows)));
    return made;
  }

  private recordStep(count: number): Promise<Program<{ rows: Tensor }>> {
    const { decoder, caches, decode, length } = this;
    const { config } = decoder;
    const rows = vector(count);
    return record(() => {
      const tape = new Tape(false, decoder.weights.storage);
      const input = { ids: scratch(count, 1, 1), positions: scratch(count, 1, 1), keys: scratch(count, 4) };
      decodeInput(rows, decode.state, input);
      const hidden = decoder.hidden(tape, { ...input, tiles: rows }, {
        attend: (_, qkv, layer) => {
          cacheWrite(qkv, config, rows, input.positions, caches[layer], length);
          return attentionDecode(qkv, config, rows, input.positions, caches[layer], length);
        },
      });
      this.draw(hidden, rows, input.keys);
      return { rows };
    }).ready();
  }

  /** Logits of hidden states [A,C], a draw for each, and the slots' new state. */
  private draw(hidden: Tensor, rows: Tensor, keys?: Tensor): void {
    const { decoder, decode, settings } = this;
    const logits = logitsOf(hidden, decoder.unembedding);
    const tokens = scratch(hidden.rows, 1, 1);
    const logprobs = scratch(hidden.rows, 1, 1);
    let drawKeys = keys;
    if (!drawKeys) {
      drawKeys = scratch(hidden.rows, 4);
      decodeInput(rows, decode.state, { ids: scratch(hidden.rows, 1, 1), positions: scratch(hidden.rows, 1, 1), keys: drawKeys });
    }
    sample({ logits, keys: drawKeys, settings, tokens, logprobs });
    decodeAdvance(rows, tokens, decode);
  }
}

function free(program: Program<unknown>, tensor: Tensor): void {
  program.discard();
  destroy(tensor);
}

/** A logit is NaN or infinite: broken weights, or values in a layer that are more than f16 holds. */
const brokenLogits = ({ weights }: Decoder): RunError =>
  new RunError('sampling: a logit is not finite', weights.storage === 'f16' ? 'leave --dtype f16 away: it ends at 65504' : 'look at the weights');

/** Rows of a decoding step for so many active slots: few sizes, so that few steps are recorded. */
function rowsFor(active: number, slots: number): number {
  let rows = 8;
  while (rows < active) rows *= 2;
  return Math.min(rows, Math.max(8, slots));
}
