// The estimate of device memory that a training command shows before it starts, against what it then allocates.
import { readFileSync, writeFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { buildWholeProgram, jsonLines } from '../properties/program.ts';

const rlhf = await buildWholeProgram();
const words = ['red', 'green', 'blue', 'grey', 'black', 'white', 'brown', 'pink'];
const text = (i: number, length: number): string => Array.from({ length }, (_, t) => words[(i * 7 + t * t) % 8]).join(' ');
const count = <T>(n: number, make: (i: number) => T): T[] => Array.from({ length: n }, (_, i) => make(i));
rlhf.rows('text.jsonl', count(40, (i) => ({ text: text(i, 60 + (i % 9) * 10) })));
rlhf.rows('demonstrations.jsonl', count(48, (i) => ({ prompt: text(i, 3 + (i % 11)), completion: ` ${text(i + 1, 2 + (i % 17))}` })));
rlhf.rows('rankings.jsonl', count(16, (i) => ({
  prompt: text(i, 4 + (i % 5)),
  completions: count(2 + (i % 6), (k) => ` ${text(i + k, 3 + ((i + k) % 9))}`),
  ranks: count(2 + (i % 6), (k) => k),
})));
rlhf.rows('prompts.jsonl', count(16, (i) => ({ prompt: text(i, 3 + (i % 8)) })));

const SMALL = ['--layers', '2', '--width', '64', '--heads', '2', '--context', '128', '--vocab-size', '300', '--batch-size', '8'];
const LARGE_VOCABULARY = ['--layers', '1', '--width', '32', '--heads', '2', '--context', '64', '--vocab-size', '12000', '--batch-size', '8'];
const DEEP = ['--layers', '6', '--width', '48', '--heads', '4', '--context', '128', '--vocab-size', '300', '--batch-size', '16'];
const pretrain = (arch: string, out: string, shape: string[], ...more: string[]): string[] =>
  ['pretrain', '--data', 'text.jsonl', '--arch', arch, ...shape, '--max-steps', '3', '--out', out, ...more];
const sft = (out: string, ...more: string[]): string[] =>
  ['train-sft', '--data', 'demonstrations.jsonl', '--batch-size', '8', '--epochs', '2', '--out', out, ...more];
const rm = (out: string, ...more: string[]): string[] =>
  ['train-rm', '--data', 'rankings.jsonl', '--batch-size', '4', '--out', out, ...more];
const ppo = (out: string, ...more: string[]): string[] =>
  ['ppo', '--prompts', 'prompts.jsonl', '--beta', '0.1', '--batch-size', '8', '--minibatch-size', '4', '--epochs', '2', '--max-new-tokens', '24', '--out', out, ...more];
const LORA = ['--lora-rank', '4'];

// In the order in which they run: later ones take the models of earlier ones.
const CONFIGURATIONS: string[][] = [
  pretrain('gpt2', 'gpt2', SMALL),
  pretrain('llama', 'llama', SMALL, '--hidden', '172'),
  pretrain('gpt2', 'vocabulary', LARGE_VOCABULARY),
  pretrain('llama', 'deep', DEEP, '--hidden', '128'),
  pretrain('llama', 'deep-again', DEEP, '--hidden', '128', '--memory', '18M'),
  pretrain('llama', 'deep-recomputed', DEEP, '--hidden', '128', '--memory', '6M'),
  sft('sft', '--model', 'llama'),
  sft('sft-gpt2', '--model', 'gpt2', '--dropout', '0.1', '--eval-data', 'demonstrations.jsonl'),
  sft('sft-lora', '--model', 'llama', ...LORA),
  sft('sft-lora-gpt2', '--model', 'gpt2', ...LORA, '--lora-targets', 'all-linear'),
  sft('sft-vocabulary', '--model', 'vocabulary', '--packing'),
  sft('sft-deep', '--model', 'deep', '--pretrain', 'text.jsonl', '--micro-batch-tokens', '256'),
  rm('rm', '--model', 'sft'),
  rm('rm-gpt2', '--model', 'sft-gpt2', '--demonstrations', 'demonstrations.jsonl'),
  rm('rm-lora', '--model', 'deep', ...LORA),
  sft('sft-selected', '--model', 'llama', '--eval-data', 'demonstrations.jsonl', '--select-by-reward', 'rm', '--max-new-tokens', '24'),
  sft('sft-selected-lora', '--model', 'gpt2', '--eval-data', 'demonstrations.jsonl', '--select-by-reward', 'rm-gpt2', ...LORA),
  ppo('ppo', '--policy', 'sft', '--reward', 'rm'),
  ppo('ppo-lora', '--policy', 'sft', '--reward', 'rm', ...LORA),
  ppo('ppo-mix', '--policy', 'sft-gpt2', '--reward', 'rm-gpt2', '--gamma', '1', '--pretrain', 'text.jsonl', '--pretrain-batch', '4', '--ema', '0.99'),
];

test('the estimate is within 15 % of what is allocated at most, for every kind of run', async () => {
  const table: string[] = [];
  const wrong: string[] = [];
  const recomputed: string[] = [];
  for (const args of CONFIGURATIONS) {
    const summary = jsonLines(await rlhf.succeed([...args, '--quiet'])).at(-1)!;
    const record = JSON.parse(readFileSync(rlhf.path(summary.out, 'rlhf.json'), 'utf8'));
    for (const key of ['memory_estimated_bytes', 'memory_minimum_bytes', 'memory_peak_bytes', 'padding']) assert.is(record[key], summary[key], key);
    assert.is(record.cost.memory_estimated_bytes, summary.memory_estimated_bytes, 'the preview shows it');
    const { memory_estimated_bytes: estimated, memory_peak_bytes: peak, memory_minimum_bytes: minimum } = summary;
    assert.ok(minimum > 4 * record.cost.parameters && minimum < peak, `${summary.out}: the minimum is ${minimum}`);
    const line = `${summary.out}: estimated ${(estimated / 2 ** 20).toFixed(2)} MiB, measured ${(peak / 2 ** 20).toFixed(2)} MiB, `
      + `ratio ${(estimated / peak).toFixed(3)}, over the minimum ${(peak / minimum).toFixed(3)}, padding ${summary.padding}, ${record.micro_batch_tokens} ${record.recompute}`;
    table.push(line);
    if (record.recompute) recomputed.push(summary.out);
    if (process.env.RLHF_TABLE) writeFileSync(process.env.RLHF_TABLE, `${table.join('\n')}\n`);
    if (!(Math.abs(estimated / peak - 1) <= 0.15)) wrong.push(line);
  }
  assert.equal(wrong, []);
  assert.equal(recomputed, ['deep-recomputed']);
});

test.after(() => rlhf.remove());
test.run();
