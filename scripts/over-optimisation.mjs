#!/usr/bin/env node
// Proxy and gold reward against √KL, for PPO's rollouts and for best-of-n: one JSON file and one page with two plots.
//   node scripts/over-optimisation.mjs --rollouts DIR --best-of scored.jsonl --out NAME
// Proxy: the reward model's score. Gold: − (missing + made-up slots) / slots, by scripts/slot-error.mjs.
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { judge } from './slot-error.mjs';

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** − (missing + made-up slots) / slots of one text. */
export function gold(prompt, completion) {
  const { slots, missing, hallucinated } = judge(prompt, completion);
  return -(missing.length + hallucinated.length) / slots;
}

/** One point of a rollout file: mean Σ_t (log π − log π_ref), mean score, mean gold reward. */
export function rolloutPoint(rows) {
  const kl = rows.map(({ logprobs, ref_logprobs: reference }) =>
    logprobs.reduce((sum, value, t) => sum + value - reference[t], 0));
  return {
    kl: mean(kl),
    proxy: mean(rows.map(({ score }) => score)),
    gold: mean(rows.map(({ prompt, completion }) => gold(prompt, completion))),
  };
}

/** Means over `size` neighbouring points: one iteration's 64 episodes are noisy. */
export function smoothed(points, size) {
  const groups = [];
  for (let i = 0; i < points.length; i += size) groups.push(points.slice(i, i + size));
  return groups.map((group) => Object.fromEntries(
    ['kl', 'proxy', 'gold'].map((key) => [key, mean(group.map((point) => point[key]))])));
}

/** KL of best-of-n from what it samples from, in nats: ln n − (n − 1) / n (Stiennon et al. 2020, appendix G.3). */
export const bestOfKl = (n) => Math.log(n) - (n - 1) / n;

/**
 * Expected proxy and gold reward of the best of n out of the N answers to one prompt, over all choices of n of them
 * (Nakano et al. 2021, appendix I): with answers in rising order of proxy, the i-th is the best of C(i−1, n−1) of the
 * C(N, n) choices.
 */
export function bestOfExpectation(proxies, golds, n) {
  const order = proxies.map((_, i) => i).sort((a, b) => proxies[a] - proxies[b]);
  const count = order.length;
  let [proxy, goldReward] = [0, 0];
  // Weight of the last one is n / N; each one before it has (i + 1 − n) / i of the next one's.
  let weight = n / count;
  for (let i = count - 1; i >= n - 1; i--) {
    proxy += weight * proxies[order[i]];
    goldReward += weight * golds[order[i]];
    weight *= i > 0 ? (i + 1 - n) / i : 0;
  }
  return { proxy, gold: goldReward };
}

/** One point for each n = 1, 2, 4, … that the rows have answers for. */
export function bestOfPoints(rows) {
  const most = Math.min(...rows.map(({ rewards }) => rewards.length));
  const prompts = rows.map(({ prompt, completions, rewards }) =>
    ({ rewards, golds: completions.map((completion) => gold(prompt, completion)) }));
  const points = [];
  for (let n = 1; n <= most; n *= 2) {
    const expected = prompts.map(({ rewards, golds }) => bestOfExpectation(rewards, golds, n));
    const [proxy, goldReward] = ['proxy', 'gold'].map((key) => mean(expected.map((each) => each[key])));
    points.push({ n, kl: bestOfKl(n), proxy, gold: goldReward });
  }
  return points;
}

/** Round steps that cover [low, high] with about five ticks. */
export function ticksOf(low, high) {
  const rough = (high - low || 1) / 5;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((each) => each >= rough);
  const [first, last] = [Math.ceil(low / step - 1e-9), Math.floor(high / step + 1e-9)];
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

const WIDTH = 560;
const HEIGHT = 330;
const EDGE = { left: 56, right: 14, top: 14, bottom: 44 };

/** One plot as SVG: each curve is {label, kind, points: [[x, y]…]}. */
export function plot(title, curves) {
  const all = curves.flatMap(({ points }) => points);
  const range = (values) => [Math.min(...values), Math.max(...values)];
  const [, right] = range([0, ...all.map(([x]) => x)]);
  const [low, high] = range(all.map(([, y]) => y));
  const pad = (high - low || 1) * 0.06;
  const x = (value) => EDGE.left + (value / (right || 1)) * (WIDTH - EDGE.left - EDGE.right);
  const y = (value) =>
    EDGE.top + ((high + pad - value) / (high - low + 2 * pad || 1)) * (HEIGHT - EDGE.top - EDGE.bottom);
  const at = (point) => `${x(point[0]).toFixed(1)},${y(point[1]).toFixed(1)}`;
  const xTicks = ticksOf(0, right).map((tick) =>
    `<line class="grid" x1="${x(tick)}" x2="${x(tick)}" y1="${EDGE.top}" y2="${HEIGHT - EDGE.bottom}"/>` +
    `<text x="${x(tick)}" y="${HEIGHT - EDGE.bottom + 18}" text-anchor="middle">${tick}</text>`);
  const yTicks = ticksOf(low - pad, high + pad).map((tick) =>
    `<line class="grid" x1="${EDGE.left}" x2="${WIDTH - EDGE.right}" y1="${y(tick)}" y2="${y(tick)}"/>` +
    `<text x="${EDGE.left - 8}" y="${y(tick) + 4}" text-anchor="end">${tick}</text>`);
  const dot = (kind, point) =>
    `<circle class="${kind}" cx="${x(point[0]).toFixed(1)}" cy="${y(point[1]).toFixed(1)}" r="3"/>`;
  const drawn = curves.map(({ kind, points }) =>
    `<polyline class="${kind}" points="${points.map(at).join(' ')}"/>` +
    points.map((point) => dot(kind, point)).join(''));
  const words = curves.map(({ label, points }) =>
    `${label} from ${points[0][1].toFixed(3)} to ${points.at(-1)[1].toFixed(3)}`).join('; ');
  return `<figure><figcaption>${title}</figcaption>
<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${title} against the root of KL: ${words}">
${[...xTicks, ...yTicks, ...drawn].join('\n')}
<text x="${(WIDTH + EDGE.left) / 2}" y="${HEIGHT - 6}" text-anchor="middle">√KL to the SFT model (√nats)</text>
</svg></figure>`;
}

export function page({ ppo, bestOf }) {
  const root = ({ kl }) => Math.sqrt(Math.max(0, kl)); // an estimate can fall below 0
  const curve = (label, kind, points, key) =>
    ({ label, kind, points: points.map((point) => [root(point), point[key]]) });
  const both = (key) => [curve('PPO', 'ppo', ppo, key), curve('best of n', 'best', bestOf, key)];
  const turn = ppo.reduce((best, point) => (point.gold > best.gold ? point : best));
  const last = ppo.at(-1);
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Over-optimisation</title><style>
:root { color-scheme: light dark; --back: #fcfcfa; --text: #1c1e21; --grid: #e2e2dc; --ppo: #b8440a; --best: #0063a6; }
@media (prefers-color-scheme: dark) {
  :root { --back: #16181b; --text: #e9e9e6; --grid: #33383f; --ppo: #f2925a; --best: #63b3f0; } }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-weight: 600; } svg { width: 100%; }
text { font-size: 12px; fill: var(--text); } .grid { stroke: var(--grid); }
polyline { fill: none; stroke-width: 2; } polyline.ppo { stroke: var(--ppo); } polyline.best { stroke: var(--best); }
circle.ppo { fill: var(--ppo); } .key-ppo { color: var(--ppo); }
circle.best { fill: var(--best); } .key-best { color: var(--best); }
</style></head><body>
<h1>Over-optimisation of the reward model</h1>
<p><b class="key-ppo">● PPO</b> <b class="key-best">● best of n</b> (n = 1 … ${bestOf.at(-1).n})</p>
<main>${plot('Reward model (proxy)', both('proxy'))}
${plot('Gold: −(missing + made-up slots) / slots', both('gold'))}</main>
<p>PPO's gold reward is highest, ${turn.gold.toFixed(3)}, at KL ${turn.kl.toFixed(1)} nats, with a proxy of
${turn.proxy.toFixed(2)}; at the end it is ${last.gold.toFixed(3)} at KL ${last.kl.toFixed(1)}, with a proxy of
${last.proxy.toFixed(2)}. Every point is a mean over sampled answers (temperature 1).</p>
</body></html>
`;
}

function rowsOf(path) {
  return readFileSync(path, 'utf8').split('\n').filter((line) => line.trim() !== '').map((line) => JSON.parse(line));
}

function main() {
  const { values } = parseArgs({ options: {
    rollouts: { type: 'string' }, 'best-of': { type: 'string' }, out: { type: 'string', default: 'over-optimisation' },
    smooth: { type: 'string', default: '4' },
  } });
  if (!values.rollouts || !values['best-of']) {
    throw new Error('usage: over-optimisation.mjs --rollouts DIR --best-of scored.jsonl [--smooth N] [--out NAME]');
  }
  const files = readdirSync(values.rollouts).filter((name) => /^step-\d+\.jsonl$/.test(name)).sort();
  if (files.length === 0) throw new Error(`${values.rollouts}: no rollouts (rlhf ppo --save-rollouts writes them)`);
  const points = files.map((name) => rolloutPoint(rowsOf(join(values.rollouts, name))));
  const curves = { ppo: smoothed(points, Number(values.smooth)), bestOf: bestOfPoints(rowsOf(values['best-of'])) };
  writeFileSync(`${values.out}.json`, `${JSON.stringify(curves, null, 2)}\n`);
  writeFileSync(`${values.out}.html`, page(curves));
  console.log(`${values.out}.html`);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  try {
    main();
  } catch (error) {
    console.error(`over-optimisation: ${error.message}`);
    process.exit(2);
  }
}
