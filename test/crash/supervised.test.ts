import { test } from 'uvu';
import { seeded } from '../gpu/device.ts';
import { buildWholeProgram, type WholeProgram } from '../properties/program.ts';
import { KILLS, surviveInterruptions } from './interruptions.ts';
import { prepareData, PRETRAIN } from './runs.ts';

let rlhf: WholeProgram;
test.before(async () => {
  rlhf = await buildWholeProgram();
  await prepareData(rlhf);
});
test.after(() => rlhf.remove());

test('pretrain ends with the same bytes however often it is stopped', () =>
  surviveInterruptions(rlhf, 'pretrain', {
    args: [...PRETRAIN, '--eval-every', '5'],
    steps: 12,
    saveEvery: 2,
    kills: Math.floor(KILLS / 4),
    random: seeded(1).uniform,
  }));

test('train-sft with dropout, a pretraining mix and selection by held-out loss', () =>
  surviveInterruptions(rlhf, 'sft', {
    args: [
      'train-sft',
      '--model',
      'base',
      '--data',
      'demonstrations.jsonl',
      '--eval-data',
      'dev.jsonl',
      '--pretrain',
      'text.jsonl',
      '--pretrain-fraction',
      '0.4',
      '--dropout',
      '0.2',
      '--batch-size',
      '6',
      '--epochs',
      '3',
      '--lr',
      '0.01',
      '--weight-decay',
      '0.1',
    ],
    steps: 12,
    saveEvery: 1,
    kills: Math.floor((KILLS + 1) / 4),
    random: seeded(2).uniform,
  }));

test('train-rm with K drawn anew each epoch and dropout', () =>
  surviveInterruptions(rlhf, 'rm', {
    args: [
      'train-rm',
      '--model',
      'base',
      '--data',
      'rankings.jsonl',
      '--eval-data',
      'rankings.jsonl',
      '--demonstrations',
      'demonstrations.jsonl',
      '--k',
      '2',
      '--batch-size',
      '4',
      '--epochs',
      '2',
      '--dropout',
      '0.1',
      '--lr',
      '0.003',
    ],
    steps: 10,
    saveEvery: 2,
    kills: Math.floor((KILLS + 2) / 4),
    random: seeded(3).uniform,
  }));

test.run();
