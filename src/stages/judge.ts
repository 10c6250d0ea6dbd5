import type { RunContext } from '../context.ts';
import { Arrivals, patienceWith } from '../data/arrivals.ts';
import { streamRows } from '../data/collect.ts';
import { encodeCompletions, encodePrompt } from '../data/encode.ts';
import type { Row } from '../data/jsonl.ts';
import { asCompletions, type Completions } from '../data/rows.ts';
import { RunError } from '../errors.ts';
import { download, stage, type Staged } from '../gpu/tensor.ts';
import { packRows, shapeOf, type PackRow } from '../model/batch.ts';
import type { Model } from '../model/load.ts';
import { Passes, prepare, type Upcoming } from '../model/passes.ts';
import type { ScoreSettings } from '../options.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { mostThatFit, planMemory } from '../train/memory.ts';
import { defaultMicroBatchTokens, pickedRows, sharedBatches } from '../train/micro_batches.ts';

/** A row of completions and its token rows, prompt and response each. */
export interface EncodedCompletions {
  row: Row;
  item: Completions;
  promptIds: Int32Array;
  /** Prompt and response of each completion. */
  ids: Int32Array[];
}

/**
 * Reads completions rows, encoded and checked against the context, in groups that fill a batch, or from a pipe those that have come; a bad
 * row comes last, as an error.
 */
export async function* readCompletions(settings: ScoreSettings, tokenizer: Tokenizer, model: Model, context: RunContext): AsyncGenerator<EncodedCompletions[]> {
  const length = { context: model.config.context, truncate: settings.truncate };
  const rows = streamRows(settings.data, (value) => {
    const item = asCompletions(value);
    return { item, ...encodeCompletions(tokenizer, encodePrompt(tokenizer, item.prompt), item.completions, item.finishReasons, length) };
  }, { skipBadRows: settings.skipBadRows, skipLong: settings.skipLong, warn: (line) => context.warn(line) });
  let group: EncodedCompletions[] = [];
  let failure: unknown;
  try {
    const [arrivals, patience] = [new Arrivals(rows), patienceWith(settings.data)];
    for (;;) {
      const next = await arrivals.next(group.length > 0 ? patience : Infinity);
      if (next?.done) break;
      if (next) group.push({ row: next.value.row, ...next.value.item });
      if (next && group.length < settings.batchSize) continue;
      yield group;
      group = [];
    }
  } catch (error) {
    failure = error;
  }
  if (group.length > 0) yield group;
  if (failure) throw failure;
}

/** Throws RunError where a model's output is not finite: its weights are broken, or something in it is more than f16 holds. */
function assertFinite(values: Float32Array, what: string, { dir, weights }: Model): void {
  const broken = values.find((x) => !Number.isFinite(x));
  if (broken === undefined) return;
  throw new RunError(`${dir}: ${what} is ${broken}`, weights.storage === 'f16' ? 'leave --dtype f16 away: it ends at 65504' : undefined);
}

/** Passes that are submitted before the first of them is read: the device need not wait for the host, nor signals for the device. */
const AHEAD = 4;

/** Scores of token rows under a reward model, each read at its last token. */
export class Scorer {
  readonly passes: Passes;

  /** A scorer whose passes stay within so many bytes. */
  static within(memory: number | undefined, model: Model): Scorer {
    return within(memory, model, (tokens) => new Scorer(model, tokens), (length) => [length - 1]);
  }

  /** @param budget tokens of one pass at most */
  constructor(readonly model: Model, public budget = defaultMicroBatchTokens()) {
    this.passes = new Passes(model.decoder, { scale: model.scale });
  }

  /** The passes that scoring these rows will run. */
  upcoming(rows: Iterable<ArrayLike<number>>): Upcoming {
    return { passes: this.passes, batches: this.parts(rows) };
  }

  private parts(rows: Iterable<ArrayLike<number>>): Generator<PackRow[]> {
    return sharedBatches(readAtTheEnd(rows), this.budget);
  }

  /** Throws the reason of `signal` when it is aborted, and RunError where a score is not finite. */
  async scores(rows: Iterable<ArrayLike<number>>, signal?: AbortSignal): Promise<number[]> {
    const scores: number[] = [];
    const submitted: { count: number; staged: Staged }[] = [];
    const readTo = async (left: number): Promise<void> => {
      for (; submitted.length > left; signal?.throwIfAborted()) {
        const { count, staged } = submitted.shift()!;
        const values = new Float32Array((await staged.read())[0]).subarray(0, count);
        assertFinite(values, 'a reward', this.model);
        for (const value of values) scores.push(value);
      }
    };
    for (const part of this.parts(rows)) {
      const pass = await this.passes.run(packRows(part, this.model.config));
      submitted.push({ count: pickedRows(part).length, staged: stage(pass.scores) });
      await readTo(AHEAD);
    }
    await readTo(0);
    return scores;
  }
}

function* readAtTheEnd(rows: Iterable<ArrayLike<number>>): Generator<PackRow> {
  for (const ids of rows) yield { ids, at: [ids.length - 1] };
}

/** Rows as short as these are as good as any for planning passes of many. */
const SHORT = 16;
/** Lengths of single rows that are planned for. */
const LENGTHS = 16;

/**
 * Tokens of a pass: as many as keep the device busy, or as many as stay within --memory, whatever the rows.
 * @param make what reads with passes of so many tokens
 * @param picks what is read of a row of so many tokens
 */
function within<Reader extends { readonly passes: Passes }>(memory: number | undefined, { config }: Model, make: (tokens?: number) => Reader,
  picks: (length: number) => number[]): Reader {
  if (memory === undefined) return make();
  const most = defaultMicroBatchTokens();
  const row = (length: number): PackRow => ({ ids: new Int32Array(length), at: picks(length) });
  const batchesOf = (tokens: number): PackRow[][] => {
    const batches = Array.from({ length: LENGTHS }, (_, i) => [row(Math.ceil((config.context * (i + 1)) / LENGTHS))]);
    for (let n = tokens; n >= SHORT; n = Math.floor(n / 2)) batches.push(Array<PackRow>(Math.ceil(n / SHORT)).fill(row(SHORT)));
    return batches;
  };
  const begin = (tokens: number): Reader => {
    const reader = make(tokens);
    reader.passes.hold(batchesOf(tokens).map(shapeOf));
    return reader;
  };
  return begin(mostThatFit(memory, most, Math.min(most, 64), (tokens) =>
    planMemory(() => begin(tokens), ({ passes }) => prepare([{ passes, batches: batchesOf(tokens) }]), [])));
}

/** Per-token log-probabilities of what follows the first `from` tokens of each row. */
export class LogprobReader {
  readonly passes: Passes;

  /** @param budget tokens of one pass at most */
  constructor(readonly model: Model, private readonly budget = defaultMicroBatchTokens()) {
    this.passes = new Passes(model.decoder);
  }

  /** A reader whose passes stay within so many bytes. */
  static within(memory: number | undefined, model: Model): LogprobReader {
    return within(memory, model, (tokens) => new LogprobReader(model, tokens), (length) => Array.from({ length }, (_, i) => i));
  }

  async logprobs(rows: readonly { ids: ArrayLike<number>; from: number }[]): Promise<Float32Array[]> {
    const results: Float32Array[] = [];
    const packed = rows.map(({ ids, from }): PackRow => {
      const at = Array.from({ length: ids.length - from }, (_, i) => from + i - 1);
      return { ids, at, targets: at.map((t) => ids[t + 1]) };
    });
    for (const part of sharedBatches(packed, this.budget)) {
      const batch = packRows(part, this.model.config);
      const pass = await this.passes.run(batch);
      const stats = new Float32Array((await download(pass.stats))[0]);
      pickedRows(part).forEach((row, r) => {
        const found = Float32Array.from({ length: row.at.length }, (_, i) => stats[4 * (batch.firstPick[r] + i)]);
        assertFinite(found, 'a log-probability', this.model);
        results.push(found);
      });
    }
    return results;
  }
}
