// The curves of the over-optimisation report, against enumeration and by hand.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const root = process.env.RLHF_ROOT ?? '.';
const script = join(root, 'scripts/over-optimisation.mjs');
const { bestOfExpectation, bestOfKl, rolloutPoint, smoothed, ticksOf } = await import(script);
const near = (value: number, expected: number, what: string) =>
  assert.ok(Math.abs(value - expected) < 1e-12, `${what}: ${value}, expected ${expected}`);

test('the expected best of n equals the mean over all choices', () => {
  const proxies = [0.3, -1, 2, 0.9, 1.4];
  const golds = [5, 1, -3, 2, 0];
  for (let n = 1; n <= 5; n++) {
    const sums = { proxy: 0, gold: 0, count: 0 };
    for (let set = 0; set < 32; set++) {
      const chosen = [0, 1, 2, 3, 4].filter((i) => set & (1 << i));
      if (chosen.length !== n) continue;
      const best = chosen.reduce((a, b) => (proxies[b]! > proxies[a]! ? b : a));
      sums.proxy += proxies[best]!;
      sums.gold += golds[best]!;
      sums.count++;
    }
    const expected = bestOfExpectation(proxies, golds, n);
    near(expected.proxy, sums.proxy / sums.count, `proxy, n = ${n}`);
    near(expected.gold, sums.gold / sums.count, `gold, n = ${n}`);
  }
});

test('a rollout is one point, and points are joined in groups', () => {
  const prompt = 'name[The Mill], food[English]\n';
  const point = rolloutPoint([
    { prompt, completion: 'The Mill, English.', score: 1, logprobs: [-1, -1], ref_logprobs: [-2, -1.5] },
    { prompt, completion: 'A cheap English pub.', score: 0, logprobs: [-1], ref_logprobs: [-1] },
  ]);
  near(point.kl, 0.75, 'KL');
  near(point.proxy, 0.5, 'proxy');
  near(point.gold, -(0 + 3 / 2) / 2, 'gold'); // name missing, price and pub made up
  assert.equal(smoothed([{ kl: 1, proxy: 0, gold: 2 }, { kl: 3, proxy: 1, gold: 0 }, { kl: 9, proxy: 9, gold: 9 }], 2),
    [{ kl: 2, proxy: 0.5, gold: 1 }, { kl: 9, proxy: 9, gold: 9 }]);
  near(bestOfKl(1), 0, 'best of one');
  near(bestOfKl(4), Math.log(4) - 0.75, 'best of four');
  assert.equal(ticksOf(0, 5), [0, 1, 2, 3, 4, 5]);
  assert.equal(ticksOf(-0.14, -0.02), [-0.1, -0.05]);
});

test('as a program it writes a page with both curves', () => {
  const folder = mkdtempSync(join(tmpdir(), 'rlhf-over-'));
  const prompt = 'name[The Mill], food[English]\n';
  mkdirSync(join(folder, 'rollouts'));
  for (const step of [1, 2, 3]) {
    const row = { prompt, completion: 'The Mill.', score: step, logprobs: [-1], ref_logprobs: [-1 - step] };
    writeFileSync(join(folder, 'rollouts', `step-00000${step}.jsonl`), `${JSON.stringify(row)}\n`);
  }
  const scored = { prompt, completions: ['a', 'The Mill', 'English', 'The Mill, English'], rewards: [0, 1, 2, 3] };
  writeFileSync(join(folder, 'scored.jsonl'), `${JSON.stringify(scored)}\n`);
  const options = ['--rollouts', 'rollouts', '--best-of', 'scored.jsonl', '--smooth', '1', '--out', 'curves'];
  const { status, stderr } = spawnSync(process.execPath, [script, ...options], { cwd: folder, encoding: 'utf8' });
  assert.is(stderr, '');
  assert.is(status, 0);
  const { ppo, bestOf } = JSON.parse(readFileSync(join(folder, 'curves.json'), 'utf8'));
  assert.equal(ppo, [1, 2, 3].map((step) => ({ kl: step, proxy: step, gold: -0.5 })));
  assert.equal(bestOf.map(({ n }: { n: number }) => n), [1, 2, 4]);
  assert.is(bestOf[2].proxy, 3);
  assert.is(bestOf[2].gold, 0);
  const html = readFileSync(join(folder, 'curves.html'), 'utf8');
  assert.is(html.match(/<polyline/g)!.length, 4);
  assert.is(html.match(/<circle/g)!.length, 2 * (3 + 3));
  assert.not.match(html, /NaN|undefined/);
  rmSync(folder, { recursive: true });
});

test.run();
