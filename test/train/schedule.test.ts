import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { multiplier, ppoMultiplier, type Schedule } from '../../src/train/schedule.ts';

interface Golden {
  name: string;
  warmup_steps: number;
  total_steps: number;
  lr_multiplier_by_step: number[];
}
const { schedules } = JSON.parse(
  readFileSync(join(process.env.RLHF_ROOT!, 'test/fixtures/optim/schedules.json'), 'utf8'),
) as { schedules: Golden[] };

const optionsOf = (s: Golden): { schedule: Schedule; warmup: number; totalSteps: number; minRatio: number } => ({
  schedule: s.name.startsWith('cosine') ? 'cosine' : s.name.startsWith('linear') ? 'linear' : 'constant',
  warmup: s.warmup_steps,
  totalSteps: s.total_steps,
  minRatio: s.name.includes('min_lr_rate .1') ? 0.1 : 0,
});

for (const golden of schedules) {
  test(`golden vectors: ${golden.name}, warm-up ${golden.warmup_steps}`, () => {
    const at = golden.name.includes('InstructGPT') ? ppoMultiplier : multiplier;
    assert.is(golden.lr_multiplier_by_step.length, golden.total_steps + 1);
    golden.lr_multiplier_by_step.forEach((expected, step) => {
      const got = at(step, optionsOf(golden));
      assert.ok(Math.abs(got - expected) < 1e-11, `step ${step}: ${got} for ${expected}`);
    });
  });
}

test('the golden vectors hold transformers’ warm-ups and PPO’s', () => {
  assert.ok(schedules.some((s) => s.name.includes('InstructGPT')));
  assert.ok(schedules.filter((s) => s.lr_multiplier_by_step[0] === 0).length >= 4);
});

test('steps after the end stay at the last rate', () => {
  const cosine = { schedule: 'cosine', warmup: 0, totalSteps: 10, minRatio: 0.1 } as const;
  assert.is(multiplier(10, cosine), 0.1);
  assert.is(multiplier(99, cosine), 0.1);
  assert.is(multiplier(99, { ...cosine, schedule: 'linear', minRatio: 0 }), 0);
});

test('a run of one step, all warm-up or none, has finite rates', () => {
  for (const schedule of ['constant', 'linear', 'cosine'] as const) {
    for (const warmup of [0, 1, 5]) {
      for (const f of [multiplier, ppoMultiplier]) {
        const rate = f(0, { schedule, warmup, totalSteps: 1, minRatio: 0.1 });
        assert.ok(rate >= 0 && rate <= 1, `${schedule}, warm-up ${warmup}: ${rate}`);
      }
    }
  }
});

test('PPO’s warm-up is a factor on its schedule, which spans all iterations', () => {
  const options = { schedule: 'linear', warmup: 4, totalSteps: 20, minRatio: 0 } as const;
  const expected = [0.1, 0.325 * 0.95, 0.55 * 0.9, 0.775 * 0.85, 0.8, 0.75];
  expected.forEach((rate, i) => assert.ok(Math.abs(ppoMultiplier(i, options) - rate) < 1e-12, `iteration ${i}`));
});

test.run();
