import { spawn } from 'node:child_process';
import { isDeepStrictEqual } from 'node:util';
import type { RunContext } from '../context.ts';
import type { Storage } from '../gpu/tensor.ts';
import { Interrupted, RunError, UsageError } from '../errors.ts';
import { loadModel, loadTokenizer, type Model } from '../model/load.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { Scorer } from './judge.ts';

/** A response to be scored: the sampled ids themselves, and its text for programs. */
export interface Answer {
  prompt: unknown;
  ids: ArrayLike<number>;
  completion: string;
  finish: 'stop' | 'length';
}

/** What gives responses their reward. */
export interface RewardSource {
  /** The reward model, where it is one, and what scores with it. */
  model?: Model;
  scorer?: Scorer;
  scores(answers: readonly Answer[]): Promise<number[]>;
}

/** A reward model's folder, or `cmd:PROGRAM`. A reward model must have the policy's tokenizer, since it scores its ids. */
export async function openReward(reward: string, tokenizer: Tokenizer, context: RunContext,
  settings: { dtype?: Storage; memory?: number } = {}): Promise<RewardSource> {
  if (reward.startsWith('cmd:')) return { scores: (answers) => runProgram(reward.slice(4), answers, context) };
  await sameTokenizer(reward, tokenizer, '--reward');
  const model = loadModel(reward, { dtype: settings.dtype, kind: 'reward' });
  const scorer = Scorer.within(settings.memory, model);
  return { model, scorer, scores: (answers) => scorer.scores(answers.map((a) => a.ids)) };
}

/** Throws a UsageError where the tokenizer in `dir` would read ids otherwise than `tokenizer`. */
export async function sameTokenizer(dir: string, tokenizer: Tokenizer, option: string): Promise<void> {
  const other = await loadTokenizer(dir);
  const vocabulary = (t: Tokenizer): string => JSON.stringify((JSON.parse(t.files.get('tokenizer.json')!) as { model: unknown }).model);
  if (vocabulary(other) !== vocabulary(tokenizer) || other.eosId !== tokenizer.eosId) {
    throw new UsageError(`${option}: the tokenizer in ${dir} is not the policy's`, 'all models of a PPO run share one tokenizer');
  }
}

/** Runs a program once through `sh -c`: completions rows in, one scored row back for each, in order. Throws Interrupted after Ctrl-C. */
function runProgram(command: string, answers: readonly Answer[], context: RunContext): Promise<number[]> {
  return new Promise((resolve, reject) => {
    if (context.signal.aborted) return reject(new Interrupted());
    // A process group of its own: Ctrl-C reaches it through us alone, and ends what the shell has started as well.
    const child = spawn('sh', ['-c', command], { stdio: ['pipe', 'pipe', 'inherit'], detached: true });
    const end = (): void => {
      try {
        process.kill(-child.pid!, 'SIGTERM');
      } catch {
        // It has ended by itself.
      }
    };
    const abort = (): void => {
      end();
      reject(new Interrupted());
    };
    context.signal.addEventListener('abort', abort, { once: true });
    process.once('exit', end);
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => (output += chunk));
    child.stdin.on('error', () => {}); // a program that stops reading early is told by its exit or its missing rows
    child.on('error', (error) => reject(new RunError(`--reward cmd:${command}: ${error.message}`)));
    child.on('close', (code, signal) => {
      context.signal.removeEventListener('abort', abort);
      process.off('exit', end);
      if (code !== 0) {
        reject(new RunError(`--reward cmd:${command}: ended with ${signal ?? `exit code ${code}`}`));
        return;
      }
      try {
        resolve(readScores(command, output, answers));
      } catch (error) {
        reject(error as Error);
      }
    });
    for (const { prompt, completion, finish } of answers) {
      child.stdin.write(`${JSON.stringify({ prompt, completion, finish_reason: finish })}\n`);
    }
    child.stdin.end();
  });
}

function readScores(command: string, output: string, answers: readonly Answer[]): number[] {
  const lines = output.split('\n').filter((line) => line.trim() !== '');
  if (lines.length !== answers.length) throw new RunError(`--reward cmd:${command}: gave ${lines.length} rows for ${answers.length} responses`);
  return lines.map((line, i) => {
    const failed = (why: string): RunError => new RunError(`--reward cmd:${command}: row ${i + 1} ${why}`);
    let row: { reward?: unknown; prompt?: unknown; completion?: unknown } | null;
    try {
      row = JSON.parse(line) as typeof row;
    } catch {
      throw failed('is not JSON');
    }
    if (typeof row?.reward !== 'number' || !Number.isFinite(Math.fround(row.reward))) {
      throw failed(typeof row?.reward === 'number' ? `has the reward ${row.reward}, which is more than a float32 holds` : 'has no number in "reward"');
    }
    // A program need not repeat what it was given; where it does, it must be in the order in which it was given.
    const { prompt, completion } = answers[i]!;
    const other = row.completion != null && row.completion !== completion ? 'completion'
      : row.prompt != null && !isDeepStrictEqual(row.prompt, JSON.parse(JSON.stringify(prompt))) ? 'prompt' : undefined;
    if (other) throw failed(`has another "${other}" than the response in its place: a row is due for each, in order`);
    return row.reward;
  });
}
