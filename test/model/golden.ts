import { join } from 'node:path';
import { openSafetensors } from '../../src/files/safetensors.ts';
import { matmul } from '../../src/gpu/ops/matmul.ts';
import { clear, copy, record } from '../../src/gpu/program.ts';
import { Tape } from '../../src/gpu/tape.ts';
import { persistent, readFloats, type Tensor } from '../../src/gpu/tensor.ts';
import { BatchTensors, packRows, type BatchShape, type PackRow } from '../../src/model/batch.ts';
import { loadModel, type LoadOptions, type Model } from '../../src/model/load.ts';
import { likelihood, Passes } from '../../src/model/passes.ts';
import { fixture } from '../gpu/device.ts';

const folder = (name: string): string => join(process.env.RLHF_ROOT!, 'test/fixtures/models', name);

/** A model of test/fixtures/models. */
export const load = (name: string, options: LoadOptions = { trainable: true }): Model =>
  loadModel(folder(name), options);

/** oracle/vectors.json of such a model. */
export const vectors = (name: string): any => fixture(`models/${name}/oracle/vectors.json`);

/** A tensor file of its oracle. */
export function tensors(name: string, file: string): (tensor: string) => Float32Array {
  const source = openSafetensors(join(folder(name), 'oracle', file));
  return (tensor) => source.read(tensor);
}

/** A padded row's real tokens, and where they stood. */
export interface RealRow {
  ids: number[];
  places: number[];
}

export const realRows = ({
  input_ids,
  attention_mask,
}: {
  input_ids: number[][];
  attention_mask: number[][];
}): RealRow[] =>
  input_ids.map((row, b) => {
    const places = row.map((_, t) => t).filter((t) => attention_mask[b][t]);
    return { ids: places.map((t) => row[t]), places };
  });

/** Every token but the first as a target; `counts` says which weigh 1/total in the loss, by their place. */
export function likelihoodRows(
  rows: RealRow[],
  counts: (row: number, place: number) => boolean,
  total: number,
): PackRow[] {
  return rows.map(({ ids, places }, b) => ({
    ids,
    at: ids.slice(1).map((_, i) => i),
    targets: ids.slice(1),
    weights: places.slice(1).map((t) => (counts(b, t) ? 1 / total : 0)),
  }));
}

/** Hidden states [N,C] and logits [N,V] of rows in one pack, padding included. */
export async function forward({ decoder, config }: Model, rows: PackRow[], atLeast?: BatchShape) {
  const batch = packRows(rows, config, atLeast);
  const input = new BatchTensors(batch.shape, config, false);
  const { storage } = decoder.weights;
  const hidden = persistent(batch.shape.tokens, config.width, undefined, storage);
  const logits = persistent(batch.shape.tokens, config.vocabSize);
  const program = await record(() => {
    const tape = new Tape(false, storage);
    copy(decoder.hidden(tape, input.tokens), hidden);
    if (decoder.weights.head === 'lm') matmul('nt', hidden, decoder.unembedding.value, logits);
  }).ready();
  input.upload(batch);
  program.run();
  return { hidden: await readFloats(hidden), logits: await readFloats(logits) };
}

/** Training passes of the weighted negative log-likelihood over a model. */
export function trainer(model: Model) {
  const totals = persistent(2, 4);
  const passes = new Passes(model.decoder, { training: true, objective: likelihood(totals) });
  const gradients = (): Tensor[] => model.weights.chunks.map((c) => c.gradients!);
  const zero = record(() => [totals, ...gradients()].forEach(clear));
  return {
    /** Loss of a batch split into these passes; the gradients lie in the model's chunks afterwards. */
    async run(split: PackRow[][]): Promise<{ loss: number; stats: Float32Array[] }> {
      zero.run();
      const stats: Float32Array[] = [];
      for (const rows of split) {
        const batch = packRows(rows, model.config);
        const pass = await passes.run(batch);
        stats.push((await readFloats(pass.stats)).slice(0, 4 * batch.picks));
      }
      return { loss: -(await readFloats(totals))[0], stats };
    },
    gradients: (): Promise<Map<string, Float32Array>> => model.weights.save(gradients()),
  };
}
