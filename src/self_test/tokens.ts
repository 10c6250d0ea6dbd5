import { embeddingGradOf, embeddingOf } from './reference/embedding.ts';
import { logprobOf } from './reference/logprob.ts';
import { matmulOf } from './reference/matmul.ts';
import { cpuLanes } from '../gpu/device.ts';
import { embedding, occurrencesOf } from '../gpu/ops/embedding.ts';
import { gather, NONE } from '../gpu/ops/gather.ts';
import { scalarHead } from '../gpu/ops/scalar_head.ts';
import { firstColumn, likelihoodGradient, weightedSum } from '../gpu/ops/sums.ts';
import { tokenLogprob } from '../gpu/ops/token_logprob.ts';
import { copy } from '../gpu/program.ts';
import { Tape } from '../gpu/tape.ts';
import { persistent, type Storage, vector } from '../gpu/tensor.ts';
import { type Check, close, inBoth, type KernelTest } from './check.ts';
import { column, compute, differentiate, matrix, numbers, parameter } from './on_device.ts';

async function checkEmbedding(storage: Storage): Promise<Check[]> {
  const [rows, cols, vocabulary, context] = [90, 67, 23, 40];
  const { normals, integers } = numbers(7, storage);
  const [table, places, dy] = [normals(vocabulary * cols), normals(context * cols), normals(rows * cols)];
  const [ids, at] = [integers(rows, vocabulary), integers(rows, context)];
  const [TABLE, PLACES] = [parameter(table, cols, storage), parameter(places, cols, storage)];
  const runsOf = (of: Uint32Array, size: number) => {
    const { runs, order } = occurrencesOf(of, rows, size);
    return { runs: matrix(runs, 4), order: column(order) };
  };
  const [IDS, AT] = [column(ids), column(at)];
  const learned = { at: AT, positions: PLACES, runs: runsOf(at, context) };
  const idRuns = runsOf(ids, vocabulary);
  const got = await differentiate(
    (tape) => embedding(tape, IDS, TABLE, idRuns, learned),
    matrix(dy, cols),
    [],
    [TABLE, PLACES],
  );
  return [
    close('rows', got.y, embeddingOf(ids, table, cols, { at, table: places })),
    close('gradient of the tokens', got.weights[0], embeddingGradOf(ids, dy, cols, vocabulary)),
    close('gradient of the positions', got.weights[1], embeddingGradOf(at, dy, cols, context)),
  ];
}

async function checkGather(storage: Storage): Promise<Check[]> {
  const [rows, cols] = [41, 67];
  const { normals } = numbers(8, storage);
  const picked = Uint32Array.from({ length: 20 }, (_, i) => (i === 19 ? NONE : 40 - 2 * i));
  const inverse = new Uint32Array(rows).fill(NONE);
  picked.forEach((row, i) => row !== NONE && (inverse[row] = i));
  const [x, dy] = [normals(rows * cols), normals(picked.length * cols)];
  const rowsOf = (of: Float32Array, index: Uint32Array): Float32Array =>
    Float32Array.from({ length: index.length * cols }, (_, i) => {
      const row = index[Math.floor(i / cols)];
      return row === NONE ? 0 : of[row * cols + (i % cols)];
    });
  const [X, INDEX, INVERSE] = [matrix(x, cols, undefined, storage), column(picked), column(inverse)];
  const got = await differentiate((tape) => gather(tape, X, INDEX, INVERSE), matrix(dy, cols), [X]);
  return [close('rows', got.y, rowsOf(x, picked), 0), close('gradient', got.inputs[0], rowsOf(dy, inverse), 0)];
}

/** From hidden states to log-probabilities and back, with the gradient of a weighted likelihood. */
async function checkLogprob(storage: Storage, rows: number, cols: number, vocabulary: number): Promise<Check[]> {
  const temperature = 0.7;
  const { normals, integers } = numbers(9, storage);
  const [h, w, targets] = [normals(rows * cols), normals(vocabulary * cols, 0.5), integers(rows, vocabulary)];
  const weights = normals(rows * 2);
  const [H, W, T, P] = [matrix(h, cols, undefined, storage), parameter(w, cols, storage), column(targets), matrix(weights, 2, 2)];
  const [stats, dLogp, logp, sums] = [persistent(rows, 4), vector(rows), vector(rows), persistent(2, 4)];
  const dH = persistent(rows, cols);
  const build = (): void => {
    const tape = new Tape(true);
    tape.push([], () => copy(tape.take(H), dH));
    likelihoodGradient(P, dLogp);
    tokenLogprob(tape, H, W, T, stats, { temperature, dLogp });
    firstColumn(stats, logp);
    weightedSum(stats, P, sums);
    tape.backward();
  };
  const got = await compute(build, [stats, dLogp, logp, sums, dH, W.grad]);
  const logits = matmulOf('nt', h, w, rows, vocabulary, cols);
  const each = Array.from(targets, (target, m) =>
    logprobOf(logits.subarray(m * vocabulary, (m + 1) * vocabulary), target, temperature),
  );
  const slope = each.map((_, m) => -(weights[2 * m] + weights[2 * m + 1]));
  const dLogits = Float64Array.from(each.flatMap((row, m) => row.gradient.map((g) => g * slope[m])));
  const expected = each.map((row) => [row.logp, row.entropy, row.correct, row.lse]);
  const total = [0, 1].flatMap((which) =>
    [0, 1, 2, 3].map((c) => expected.reduce((sum, row, m) => sum + weights[2 * m + which] * row[c], 0)),
  );
  return [
    close(`log-probability, entropy, hit, log-sum-exp of ${vocabulary}`, got[0], expected.flat()),
    close('gradient of the likelihood', got[1], slope),
    close(
      'first column',
      got[2],
      expected.map(([first]) => first),
    ),
    close('weighted sums', got[3], total),
    close('gradient of the hidden states', got[4], matmulOf('nn', dLogits, w, rows, cols, vocabulary)),
    close('gradient of the unembedding', got[5], matmulOf('tn', dLogits, h, vocabulary, cols, rows)),
  ];
}

async function checkScalarHead(storage: Storage): Promise<Check[]> {
  const [rows, cols] = [133, 67];
  const { normals } = numbers(10, storage);
  const [h, w, dr] = [normals(rows * cols), normals(cols), normals(rows)];
  const [H, W, SCALE, DR] = [matrix(h, cols, undefined, storage), parameter(w, cols), column(Float32Array.of(1, 0.25)), column(dr)];
  const [r, dH] = [vector(rows), persistent(rows, cols)];
  const build = (): void => {
    const tape = new Tape(true);
    tape.push([], () => copy(tape.take(H), dH));
    scalarHead(tape, H, W, SCALE, r, DR);
    tape.backward();
  };
  const got = await compute(build, [r, dH, W.grad]);
  return [
    close(
      'result',
      got[0],
      matmulOf('nt', h, w, rows, 1, cols).map((x) => x + 0.25),
    ),
    close('gradient', got[1], matmulOf('nn', dr, w, rows, cols, 1)),
    close('gradient of the weight', got[2], matmulOf('tn', dr, h, 1, cols, rows)),
  ];
}

export const tokenTests: KernelTest[] = [
  ...inBoth('embedding', ['embedding', 'embedding_grad'], checkEmbedding),
  ...inBoth('gather', ['gather'], checkGather),
  ...inBoth(
    'token_logprob',
    ['token_logprob', 'token_logprob_grad', 'likelihood_grad', 'weighted_sum', 'first_column'],
    async (storage) => [...await checkLogprob(storage, 70, 43, 1003),
      ...cpuLanes() ? [] : await checkLogprob(storage, 3, 5, 16_503)], // a vocabulary of which a workgroup takes a row
  ),
  ...inBoth('scalar_head', ['scalar_head', 'column_sum'], checkScalarHead),
];
