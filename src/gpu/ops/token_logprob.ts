import source from '../../../kernels/token_logprob.wgsl';
import gradSource from '../../../kernels/token_logprob_grad.wgsl';
import { gpu } from '../device.ts';
import { kernel } from '../kernel.ts';
import { readsTextures } from '../mirror.ts';
import { f32, launch } from '../program.ts';
import { rowGrid, slicesOf, type Parameter, type Tape } from '../tape.ts';
import { release, scratch, type Tensor } from '../tensor.ts';
import { matmul } from './matmul.ts';
import { grid, lanesFor, rowKernel } from './reduction.ts';

/** vec4s of a row of logits that a lane takes at most on a GPU, before a workgroup takes the row. */
const MOST_OF_LANE = 64;

export interface TokenLogprobOptions {
  /** Logits are divided by it. */
  temperature?: number;
  /** Gradient of each target's log-probability [M], read when the backward pass runs. Needed for training. */
  dLogp?: Tensor;
}

/**
 * The most bytes of logits that are in memory at once; more rows are done in turn and recomputed for the gradient. A GPU gets four times
 * as many, and so a quarter of the dispatches.
 */
const logitBytes = (): number => (gpu().software ? 64 << 20 : Math.min(256 << 20, gpu().maxBinding));

/**
 * For hidden states h [M,C] and the unembedding W [V,C]: stats [M,4] = (log-probability of the target, entropy,
 * 1 if the target is the most likely token, log-sum-exp), from logits h·Wᵀ/temperature that never exist for more rows
 * than fit `logitBytes`. The gradient runs through log-probabilities only.
 */
export function tokenLogprob(tape: Tape, h: Tensor, w: Parameter, targets: Tensor, stats: Tensor, options: TokenLogprobOptions = {}): void {
  const slices = slicesOf(w);
  const vocabulary = slices.at(-1)!.firstRow + slices.at(-1)!.value.rows;
  const stride = (vocabulary + 3) & ~3;
  const inverse = f32(1 / (options.temperature ?? 1));
  const fit = Math.max(1, Math.floor(logitBytes() / (stride * 4)));
  const block = fit >= h.rows ? h.rows : Math.max(64, fit - (fit % 64));
  const parts = partsOf(h.rows, block);
  const { made, rows } = rowKernel('token_logprob', source, lanesFor(stride / 4, MOST_OF_LANE));
  const kept = new Map<number, Tensor>();
  for (const { first, count } of parts) {
    const logits = logitsOf(h.rowRange(first, count), w);
    launch(made, [logits, targets.rowRange(first, count), stats.rowRange(first, count)],
      [count, vocabulary, stride / 4, inverse], grid(Math.ceil(count / rows)));
    if (tape.training && parts.length === 1) kept.set(first, logits);
    else release(logits);
  }
  tape.push([h, ...kept.values()], () => {
    const { gradient, add } = tape.target(h);
    for (const { first, count } of parts) {
      const logits = kept.get(first) ?? logitsOf(h.rowRange(first, count), w);
      const lanes = rowGrid(stride / 4, count);
      launch(kernel('token_logprob_grad', gradSource),
        [targets.rowRange(first, count), stats.rowRange(first, count), options.dLogp!.rowRange(first, count), logits],
        [count, lanes.each, vocabulary, stride / 4, inverse], lanes.grid);
      for (const { value, grad, firstRow } of slices) {
        const dz = logits.columnRange(firstRow, value.rows);
        for (const part of mirroredParts(dz, value)) {
          const [rows, at] = [dz.rowRange(part.first, part.count), first + part.first];
          if (grad) matmul('tn', rows, h.rowRange(at, part.count), grad, { kind: 'add' });
          matmul('nn', rows, value, gradient.rowRange(at, part.count), add || firstRow > 0 ? { kind: 'add' } : { kind: 'plain' });
        }
      }
      if (!kept.has(first)) release(logits);
    }
  });
  tape.done(...kept.values());
}

interface Part { first: number; count: number }

const partsOf = (rows: number, block: number): Part[] =>
  Array.from({ length: Math.ceil(rows / block) }, (_, i) => ({ first: i * block, count: Math.min(block, rows - i * block) }));

/** Bytes of a gradient of logits of which a mirror may take as many again. */
const SMALL_MIRROR = 8 << 20;
/** Parts that a larger one is mirrored in, unless they would be smaller than the unembedding, which is read and added to for each of them. */
const PARTS = 4;

/** Rows of the gradient of logits dz whose products are done in turn, so that its mirror (see mirror.ts) takes a fraction of its memory. */
function mirroredParts(dz: Tensor, unembedding: Tensor): Part[] {
  const bytes = dz.rows * dz.stride * 4;
  const parts = readsTextures() && bytes > SMALL_MIRROR ? Math.min(PARTS, Math.ceil(bytes / unembedding.bytes)) : 1;
  return partsOf(dz.rows, 32 * Math.ceil(dz.rows / parts / 32)); // rows of a tile, which begin on binding boundaries
}

/** Logits h [M,C] · Wᵀ [M,V] for an unembedding of one or several slices. */
export function logitsOf(h: Tensor, w: Parameter): Tensor {
  const slices = slicesOf(w);
  const logits = scratch(h.rows, slices.at(-1)!.firstRow + slices.at(-1)!.value.rows);
  for (const { value, firstRow } of slices) matmul('nt', h, value, logits.columnRange(firstRow, value.rows));
  return logits;
}
