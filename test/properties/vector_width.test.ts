// Mesa's software driver computes with vectors of 256 or 512 bits, and kernels take 8 or 16 lanes: what a CPU has must not show in results.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { gpu } from '../../src/gpu/device.ts';
import { closeAfterTests, openForTests, skip } from '../gpu/device.ts';
import { prepareData, PRETRAIN } from '../crash/runs.ts';
import { assertSameRun, buildWholeProgram, jsonLines, outcome, type WholeProgram } from './program.ts';

const NAME = 'pretraining, a reward model, PPO, samples and scores have the same bits with vectors of 256 and of 512 bits';
await openForTests();
const { info } = gpu();
await closeAfterTests();

let rlhf: WholeProgram;
test.before(async () => {
  rlhf = await buildWholeProgram();
  await prepareData(rlhf);
});
test.after(() => rlhf.remove());

/** Standard output of a command that must succeed, on a driver with vectors of so many bits. */
async function run(width: string, args: string[]): Promise<string> {
  const child = rlhf.start([...args, '--quiet'], { env: { ...process.env, LP_NATIVE_VECTOR_WIDTH: width }, stdio: ['ignore', 'pipe', 'pipe'] });
  const { code, stdout, stderr } = await outcome(child);
  assert.is(code, 0, `rlhf ${args.join(' ')}\n${stderr}`);
  return stdout;
}

if (!/llvmpipe/.test(`${info.device} ${info.description}`)) {
  skip(NAME, 'the adapter is another driver');
} else {
  test(NAME, async () => {
    const widths = ['256', '512'];
    const lanes: string[] = [];
    const texts: string[] = [];
    const scores: string[] = [];
    for (const width of widths) {
      lanes.push(/subgroups: (\d+) lanes/.exec(await run(width, ['doctor']))![1]);
      await run(width, [...PRETRAIN, '--lr', '0.003', '--out', `base-${width}`]);
      await run(width, ['train-rm', '--model', `base-${width}`, '--data', 'rankings.jsonl', '--batch-size', '6', '--lr', '0.003', '--out', `reward-${width}`]);
      await run(width, ['ppo', '--policy', `base-${width}`, '--reward', `reward-${width}`, '--prompts', 'prompts.jsonl', '--episodes', '12',
        '--batch-size', '6', '--minibatch-size', '3', '--epochs', '2', '--max-new-tokens', '6', '--lr', '0.003', '--value-lr', '0.003', '--beta', '0.05',
        '--gamma', '0.5', '--pretrain', 'text.jsonl', '--pretrain-batch', '2', '--out', `policy-${width}`]);
      texts.push(await run(width, ['sample', '--model', `policy-${width}`, '--data', 'prompts.jsonl', '--k', '4', '--max-new-tokens', '12']));
      rlhf.rows('answers.jsonl', jsonLines(texts[0]));
      scores.push(await run(width, ['score', '--model', `reward-${width}`, '--data', 'answers.jsonl', '--truncate']));
    }
    assert.equal(lanes, ['8', '16']);
    for (const kind of ['base', 'reward', 'policy']) assertSameRun(rlhf.path(`${kind}-512`), rlhf.path(`${kind}-256`), kind);
    assert.ok(texts[0].split('\n').length > 7);
    assert.is(texts[1], texts[0]);
    assert.ok(scores[0].split('\n').length > 7);
    assert.is(scores[1], scores[0]);
  });
}

test.run();
