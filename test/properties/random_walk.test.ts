import { mkdirSync, writeFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { seeded } from '../gpu/device.ts';
import { buildWholeProgram, jsonLines, metricsOf, type WholeProgram } from './program.ts';

// The task of trlx's randomwalks example: a language model of walks through a graph learns by reinforcement to take the
// shortest way to a goal, which it has never been shown.

const NODES = [...'abcdefghijklmnopqrstu'];
const GOAL = 0;
const LONGEST = 10; // steps of a walk

/** Two to four ways out of each node; all nodes reach the goal in a few steps. */
function randomGraph(seed: number): number[][] {
  const { below } = seeded(seed);
  const ways = NODES.map((_, node) => {
    if (node === GOAL) return [];
    const to = new Set<number>();
    while (to.size < 2 + (node % 3)) {
      const next = below(NODES.length);
      // A third of the nodes may have a way to the goal, so that a walk at random seldom takes the shortest.
      if (next !== node && (next !== GOAL || node % 3 === 0)) to.add(next);
    }
    return [...to];
  });
  return distances(ways).every((d) => d <= LONGEST / 2) ? ways : randomGraph(seed + 1);
}

/** Steps of the shortest way from each node to the goal. */
function distances(ways: number[][]): number[] {
  const steps = NODES.map((_, node) => (node === GOAL ? 0 : Infinity));
  for (let round = 0; round < NODES.length; round++) {
    ways.forEach((to, node) => to.forEach((next) => (steps[node] = Math.min(steps[node], steps[next] + 1))));
  }
  return steps;
}

/**
 * 1 for a shortest walk, less the longer it is, 0 for one that takes a way that is not there, does not arrive, or goes on
 * after it has.
 * The text of this function also becomes the reward program.
 */
function optimality(walk: string, nodes: string[], ways: number[][], shortest: number[], longest: number): number {
  const path = [...walk].map((letter) => nodes.indexOf(letter));
  const steps = path.length - 1;
  if (path.at(-1) !== 0 || steps > longest) return 0;
  for (let i = 0; i < steps; i++) if (!ways[path[i]]?.includes(path[i + 1])) return 0;
  return (longest + 1 - steps) / (longest + 1 - shortest[path[0]]);
}

const ways = randomGraph(3);
const shortest = distances(ways);
const mean = (values: number[]): number => values.reduce((sum, x) => sum + x, 0) / values.length;
const starts = NODES.slice(1).map((node) => ({ prompt: node }));

let rlhf: WholeProgram;

/** Mean optimality of sampled walks, ten from each node. */
async function sampled(model: string): Promise<number> {
  const rows = jsonLines(
    await rlhf.succeed(
      ['sample', '--model', model, '--k', '10', '--max-new-tokens', '12', '--batch-size', '200', '--quiet'],
      starts.map((row) => `${JSON.stringify(row)}\n`).join(''),
    ),
  );
  return mean(
    rows.flatMap(({ prompt, completions }) =>
      completions.map((text: string) => optimality(prompt + text, NODES, ways, shortest, LONGEST)),
    ),
  );
}

test.before(async () => {
  rlhf = await buildWholeProgram();
  mkdirSync(rlhf.path('tokenizer'));
  const end = {
    id: NODES.length,
    content: '<end>',
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  };
  writeFileSync(
    rlhf.path('tokenizer/tokenizer.json'),
    JSON.stringify({
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: [end],
      normalizer: null,
      pre_tokenizer: null,
      post_processor: null,
      decoder: { type: 'Fuse' },
      model: {
        type: 'BPE',
        vocab: Object.fromEntries([...NODES, '<end>'].map((token, id) => [token, id])),
        merges: [],
      },
    }),
  );
  writeFileSync(
    rlhf.path('tokenizer/tokenizer_config.json'),
    JSON.stringify({ tokenizer_class: 'PreTrainedTokenizerFast', eos_token: '<end>' }),
  );
  const { below } = seeded(7);
  rlhf.rows(
    'walks.jsonl',
    Array.from({ length: 1000 }, () => {
      const walk = [1 + below(NODES.length - 1)];
      while (walk.at(-1) !== GOAL && walk.length <= LONGEST) {
        const out = ways[walk.at(-1)!];
        walk.push(out[below(out.length)]);
      }
      return { text: walk.map((node) => NODES[node]).join('') };
    }),
  );
  rlhf.rows('starts.jsonl', starts);
  writeFileSync(
    rlhf.path('reward.mjs'),
    `import { readFileSync } from 'node:fs';
    ${optimality.toString()}
    for (const line of readFileSync(0, 'utf8').trimEnd().split('\\n')) {
      const { prompt, completion } = JSON.parse(line);
      const task = ${JSON.stringify([NODES, ways, shortest, LONGEST])};
      console.log(JSON.stringify({ reward: optimality(prompt + completion, ...task) }));
    }`,
  );
});
test.after(() => rlhf.remove());

test('pretrained on random walks, PPO learns the shortest ways: optimality ≥ 0.9', async () => {
  await rlhf.succeed([
    'pretrain',
    '--data',
    'walks.jsonl',
    '--tokenizer',
    'tokenizer',
    '--layers',
    '2',
    '--width',
    '32',
    '--heads',
    '2',
    '--context',
    '24',
    '--batch-size',
    '24',
    '--epochs',
    '12',
    '--lr',
    '0.004',
    '--out',
    'walker',
    '--quiet',
  ]);
  const before = await sampled('walker');
  assert.ok(before > 0.05 && before < 0.5, `walks at random have optimality ${before}`);
  await rlhf.succeed([
    'ppo',
    '--policy',
    'walker',
    '--reward',
    `cmd:'${process.execPath}' reward.mjs`,
    '--prompts',
    'starts.jsonl',
    '--out',
    'traveller',
    '--episodes',
    String(30 * 200),
    '--batch-size',
    '200',
    '--minibatch-size',
    '100',
    '--epochs',
    '2',
    '--max-new-tokens',
    '12',
    '--missing-eos-penalty',
    '0',
    '--beta',
    '0.005',
    '--lr',
    '0.002',
    '--value-lr',
    '0.004',
    '--warmup',
    '0',
    '--schedule',
    'linear',
    '--quiet',
  ]);
  const metrics = metricsOf(rlhf.path('traveller'));
  const after = await sampled('traveller');
  assert.ok(
    after >= 0.9,
    `optimality ${after}, ${before} before PPO`,
  );
  assert.ok((metrics[0]['objective/scores'] as number) < 0.6 && metrics[0]['objective/kl'] === 0);
});

test.run();
