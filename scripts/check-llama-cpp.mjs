// Exports a model as GGUF and compares it with llama.cpp (npm package node-llama-cpp, which brings a built one):
//   npm install --prefix /path/elsewhere --ignore-scripts node-llama-cpp
//   node scripts/check-llama-cpp.mjs MODEL_DIR --llama /path/elsewhere [--tokens 32] [--text FILE] [--prompts FILE.jsonl]
// f16: the same ids for ten prompts, the same greedy tokens, log-probabilities of a text close to ours.
// q8_0: the same most likely token as f16 on 98 % of the text's positions. Exit 1 where one of these fails.
// The text is the prompts with the model's own greedy answers, unless --text gives another. How often q8_0 agrees depends on
// how sure the model is of that text: SmolLM2-135M (from Q4_1) keeps 99 % on one long greedy answer to a chat prompt, 95 %
// on the default text and on an essay. On the essay float32 arithmetic with the rounded weights keeps 98 %, F16 99 %: most
// of the loss is llama.cpp's rounding of activations to 8 bits. Attention and ffn_down in F16 gave 97.5 % for a file a third
// larger, so all matrices are Q8_0, as llama.cpp's own converter has them. Other scales of a block change little: of 480
// positions (a chat, a play, an article, 160 each) max/127 keeps 461, least squares 462, the best of 17 scales around it 465,
// the embedding in F16 465 (a file a fifth larger); the spread between the texts is larger, so max/127 stays.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

const PROMPTS = [
  'The capital of France is', 'Once upon a time', 'Water boils at', 'My favourite animal is the dog, because',
  'In 1969 the first people', 'To make bread you need 500 g of', 'def add(a, b):\n', 'The old man said: "I don\'t',
  'Über den Wolken', 'name[The Mill], eatType[pub], food[English]\n',
];
/** Mean difference of log-probabilities between float32 and llama.cpp's f16: rounding of weights to 11 bits. */
const F16_MEAN = 0.02;
const Q8_AGREEMENT = 0.98;

const root = new URL('..', import.meta.url).pathname;
const { values: options, positionals: [model] } = parseArgs({
  allowPositionals: true,
  options: {
    llama: { type: 'string' },
    rlhf: { type: 'string', default: join(root, 'dist/cli.js') },
    tokens: { type: 'string', default: '32' },
    text: { type: 'string' },
    prompts: { type: 'string' },
    length: { type: 'string', default: '256' },
  },
});
if (!model || !options.llama) {
  console.error('usage: node scripts/check-llama-cpp.mjs MODEL_DIR --llama FOLDER_WITH_node-llama-cpp');
  process.exit(2);
}
const count = Number(options.tokens);
const temporary = mkdtempSync(join(tmpdir(), 'rlhf-gguf-'));
process.on('exit', () => rmSync(temporary, { recursive: true, force: true }));

/** Runs the program on rows and returns the rows that it writes. */
function rlhf(args, rows = []) {
  const input = rows.map((row) => JSON.stringify(row)).join('\n');
  const output = execFileSync(process.execPath, [options.rlhf, ...args, '--quiet'], {
    input, encoding: 'utf8', maxBuffer: 2 ** 28, stdio: ['pipe', 'pipe', 'inherit'],
  });
  return output.split('\n').filter(Boolean).map((line) => JSON.parse(line));
}

const prompts = options.prompts
  ? readFileSync(options.prompts, 'utf8').split('\n').filter(Boolean).map((line) => JSON.parse(line).prompt)
  : PROMPTS;

const { context } = contextOf(model);
const rows = prompts.map((prompt) => ({ prompt }));
const ours = rlhf(['sample', '--model', model, '--greedy', '--max-new-tokens', String(count)], rows);
const document = options.text
  ? readFileSync(options.text, 'utf8')
  : ours.map(({ prompt, completion }) => `${prompt} ${completion}`).join('\n\n');
const [scored] = rlhf(['logprobs', '--model', model, '--truncate'], [{ prompt: document.slice(0, 10), completion: document.slice(10, 4 * Number(options.length)) }]);
const promptIds = rlhf(['logprobs', '--model', model], prompts.map((prompt) => ({ prompt, completion: '', finish_reason: 'stop' })))
  .map((row) => row.prompt_tokens);
const length = Math.min(Number(options.length), context, scored.prompt_tokens.length + scored.tokens.length - 1);
const textIds = [...scored.prompt_tokens, ...scored.tokens].slice(0, length);

const { getLlama } = await import(pathToFileURL(
  createRequire(join(resolve(options.llama), 'package.json')).resolve('node-llama-cpp')).href);
const llama = await getLlama({ gpu: false, build: 'never', skipDownload: true, logLevel: 'error' });
const results = {};
for (const storage of ['f16', 'q8_0']) {
  const path = join(temporary, `${storage}.gguf`);
  rlhf(['export', '--model', model, '--gguf', storage, '--out', path]);
  results[storage] = await run(path);
  rmSync(path);
}
await llama.dispose();

const { f16, q8_0 } = results;
const checks = [];
const check = (what, ok, detail) => checks.push({ check: what, ok, ...detail });
const otherIds = prompts.filter((_, i) => f16.ids[i].join() !== promptIds[i].join());
check('prompts have the same ids', otherIds.length === 0, { of: prompts.length, other: otherIds });
const otherText = ours.map((row, i) => ({ prompt: row.prompt, ours: row.completion, llama: f16.greedy[i] }))
  .filter((pair) => pair.ours.trimStart() !== pair.llama.trimStart());
check(`f16: the same ${count} greedy tokens`, otherText.length === 0, { of: prompts.length, other: otherText });
const differences = f16.logprobs.flatMap((lp, t) => {
  const own = scored.logprobs[t + 1 - scored.prompt_tokens.length];
  return own === undefined ? [] : [Math.abs(lp - own)];
});
const mean = differences.reduce((sum, d) => sum + d, 0) / differences.length;
check('f16: log-probabilities', mean <= F16_MEAN, { mean, max: Math.max(...differences), positions: differences.length });
const same = f16.best.filter((token, t) => token === q8_0.best[t]).length / f16.best.length;
check('q8_0: most likely token', same >= Q8_AGREEMENT, { agreement: same, positions: f16.best.length });
for (const line of checks) console.log(JSON.stringify(line));
process.exit(checks.every(({ ok }) => ok) ? 0 : 1);

/** What llama.cpp makes of a file: prompt ids, greedy continuations, and for the text its log-probabilities and best tokens. */
async function run(path) {
  const file = await llama.loadModel({ modelPath: path });
  const size = Math.min(context, Math.max(length, 64 + count));
  // One thread: llama.cpp's threads wait for one another in a loop, which takes minutes where the cores are shared.
  const session = await file.createContext({ contextSize: size, batchSize: size, threads: 1 });
  const sequence = session.getSequence();
  const ids = [];
  const greedy = [];
  for (const [i, prompt] of prompts.entries()) {
    const bos = file.tokens.shouldPrependBosToken ? [file.tokens.bos] : [];
    ids.push([...bos, ...file.tokenize(prompt, true)]);
    await sequence.clearHistory();
    const generated = [];
    for await (const token of sequence.evaluate(promptIds[i], { temperature: 0, yieldEogToken: true })) {
      if (token === file.tokens.eos) break;
      generated.push(token);
      if (generated.length === Math.min(count, context - promptIds[i].length)) break;
    }
    greedy.push(file.detokenize(generated, false, promptIds[i]));
  }
  await sequence.clearHistory();
  const outputs = await sequence.controlledEvaluate(textIds.map((token, t) => [token, {
    generateNext: {
      token: true, totalLogitWeight: true, options: { temperature: 0 },
      logits: { filter: { tokens: [textIds[t + 1] ?? 0], includeSelected: true } },
    },
  }]));
  const logprobs = [];
  const best = [];
  outputs.forEach(({ next }, t) => {
    best.push(next.token);
    const below = next.logits.get(textIds[t + 1]) - next.logits.get(next.token);
    if (t + 1 < textIds.length) logprobs.push(below - Math.log(next.totalLogitWeight));
  });
  await session.dispose();
  await file.dispose();
  return { ids, greedy, logprobs, best };
}

/** The context length that config.json gives. */
function contextOf(dir) {
  const config = JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8'));
  return { context: config.n_positions ?? config.max_position_embeddings };
}
