// The page of scale.mjs: four plots with logarithmic axes, and a sentence wherever a curve is not what it should be.

const WIDTH = 560;
const HEIGHT = 340;
const EDGE = { left: 64, right: 124, top: 12, bottom: 46 };

/** Round numbers that mark a logarithmic axis from `low` to `high`: powers of 10, or 1, 2, 5 times them where there are few. */
export function logTicks(low, high) {
  const decades = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) decades.push(e);
  const marks = (factors) => decades.flatMap((e) => factors.map((factor) => Number((factor * 10 ** e).toPrecision(3))))
    .filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  const choices = [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 8]].map(marks);
  return choices.find((ticks) => ticks.length >= 3) ?? choices.at(-1);
}

const short = (value) => (value >= 1e6 ? `${value / 1e6} M` : value >= 1e4 ? `${value / 1e3} k` : value.toLocaleString('en'));

/** One plot as SVG. Each curve is {label, kind, points: [[x, y]…]}; x ticks are the points' own where `own`. */
export function plot({ title, xLabel, yLabel, curves, own }) {
  const all = curves.flatMap(({ points }) => points);
  const [left, right] = [Math.min(...all.map(([x]) => x)), Math.max(...all.map(([x]) => x))];
  // At least a factor of 4 from bottom to top, so that noise does not look like a trend.
  const [least, most] = [Math.min(...all.map(([, y]) => y)), Math.max(...all.map(([, y]) => y))];
  const margin = Math.max(1.15, Math.sqrt(4 / (most / least)));
  const [low, high] = [least / margin, most * margin];
  const x = (value) => EDGE.left + (Math.log(value / left) / Math.log(right > left ? right / left : Math.E)) * (WIDTH - EDGE.left - EDGE.right);
  const y = (value) => EDGE.top + (Math.log(high / value) / Math.log(high / low)) * (HEIGHT - EDGE.top - EDGE.bottom);
  const at = (point) => `${x(point[0]).toFixed(1)},${y(point[1]).toFixed(1)}`;
  const xTicks = (own ? [...new Set(all.map(([value]) => value))] : logTicks(left, right)).map((tick) =>
    `<line class="grid" x1="${x(tick).toFixed(1)}" x2="${x(tick).toFixed(1)}" y1="${EDGE.top}" y2="${HEIGHT - EDGE.bottom}"/>`
    + `<text x="${x(tick).toFixed(1)}" y="${HEIGHT - EDGE.bottom + 18}" text-anchor="middle">${short(tick)}</text>`);
  const yTicks = logTicks(low, high).map((tick) =>
    `<line class="grid" x1="${EDGE.left}" x2="${WIDTH - EDGE.right}" y1="${y(tick).toFixed(1)}" y2="${y(tick).toFixed(1)}"/>`
    + `<text x="${EDGE.left - 8}" y="${(y(tick) + 4).toFixed(1)}" text-anchor="end">${short(tick)}</text>`);
  // Labels stand at the curves' ends, at least a line apart.
  const ends = curves.map(({ label, kind, points }) => ({ label, kind, y: y(points.at(-1)[1]) })).sort((a, b) => a.y - b.y);
  ends.forEach((end, i) => { if (i > 0) end.y = Math.max(end.y, ends[i - 1].y + 16); });
  const over = Math.max(0, (ends.at(-1)?.y ?? 0) - (HEIGHT - EDGE.bottom));
  const drawn = curves.map(({ kind, points }) => `<polyline class="${kind}" points="${points.map(at).join(' ')}"/>`
    + (kind === 'expected' ? '' : points.map((point) => `<circle class="${kind}" cx="${x(point[0]).toFixed(1)}" cy="${y(point[1]).toFixed(1)}" r="3.5"/>`).join('')));
  const labels = ends.map((end) => `<text class="${end.kind}" x="${WIDTH - EDGE.right + 9}" y="${(end.y - over + 4).toFixed(1)}">${end.label}</text>`);
  const aloud = curves.map(({ label, points }) => `${label} from ${points[0][1].toPrecision(3)} to ${points.at(-1)[1].toPrecision(3)}`).join('; ');
  return `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${title}: ${aloud}">
${[...xTicks, ...yTicks, ...drawn, ...labels].join('\n')}
<text x="${(EDGE.left + WIDTH - EDGE.right) / 2}" y="${HEIGHT - 8}" text-anchor="middle">${xLabel}</text>
<text transform="translate(14 ${(HEIGHT - EDGE.bottom + EDGE.top) / 2}) rotate(-90)" text-anchor="middle">${yLabel}</text>
</svg>`;
}

/** What the costs would be if they grew as `shape` does, through the last point: there, what does not grow matters least. */
export const expected = (points, shape) => points.map(({ x }, i) => [x, (points.at(-1).y * shape[i]) / shape.at(-1)]);

/** How much dearer or cheaper the first point is than it should be, measured by the last: 1 where all is in proportion. */
export const excess = (points, shape) => points[0].y / expected(points, shape)[0][1];

const percent = (ratio) => `${Math.round(Math.abs(ratio - 1) * 100)} %`;
const us = (seconds) => Number((seconds * 1e6).toPrecision(3));

function costPanel(points, { title, xLabel, shape, expectedLabel, sentence }) {
  const measured = points.map((point) => ({ x: point.x, y: us(point.seconds_per_token) }));
  const form = points.map(shape);
  const ratio = excess(measured, form);
  const off = Math.abs(ratio - 1) > 0.15;
  const curves = [{ label: 'measured', kind: 'first', points: measured.map(({ x, y }) => [x, y]) },
    { label: expectedLabel, kind: 'expected', points: expected(measured, form) }];
  const [first, last] = [measured[0], measured.at(-1)];
  const from = `${first.y} µs a token at ${first.x}, ${last.y} µs at ${last.x.toLocaleString('en')}`;
  return { title, svg: plot({ title, xLabel, yLabel: 'µs a token', curves, own: points.length <= 6 }),
    text: off ? `${from}. ${sentence(ratio, first.x, last.x)}` : `${from}: as it should be, within ${percent(ratio)}.` };
}

/** Commands that have all rows before they can do anything, and what they hold of each. */
const HOLDING = { 'train-sft': 'shuffles them, and so holds their tokens', 'label --agreement': 'compares them, and so holds their verdicts' };
const KINDS = ['first', 'second', 'third', 'fourth', 'fifth', 'sixth'];
const count = (value) => Math.round(value).toLocaleString('en');

function rowsPanel(points) {
  const commands = [...new Set(points.map(({ command }) => command))];
  const of = (command) => points.filter((point) => point.command === command);
  const curves = commands.map((command, i) => ({ label: command, kind: KINDS[i % KINDS.length], points: of(command).map(({ x, peak_bytes }) => [x, Number((peak_bytes / 2 ** 20).toPrecision(4))]) }));
  const speed = (command) => of(command).at(-1).x / of(command).at(-1).seconds;
  // From a tenth of the most rows on: the heap of a young process grows whatever it does.
  const from = (command) => of(command).at(-2) ?? of(command)[0];
  const growth = (command) => of(command).at(-1).peak_bytes / from(command).peak_bytes;
  const streamed = commands.filter((command) => !(command in HOLDING));
  const each = (command) => `${command} × ${growth(command).toFixed(2)} from ${count(from(command).x)} to ${count(of(command).at(-1).x)} rows, ${count(speed(command))} a second`;
  const flat = streamed.every((command) => growth(command) < 1.5);
  const held = commands.filter((command) => command in HOLDING).map((command) => {
    const [first, last] = [from(command), of(command).at(-1)];
    const bytes = last.x > first.x ? Math.max(0, last.peak_bytes - first.peak_bytes) / (last.x - first.x) : 0;
    return ` ${command} is linear in its rows, as it must be: it ${HOLDING[command]}, about ${count(bytes)} bytes a row with what the collector has not cleared (${each(command)}).`;
  });
  return { title: 'Rows through a pipe: memory of the process', svg: plot({ title: 'Rows', xLabel: 'rows', yLabel: 'most resident, MiB', curves, own: false }),
    text: `${flat ? 'Commands that answer while they read stay flat' : 'Commands that answer while they read grow, since the heap is not full before the collector has reason to clear it'
    } (${streamed.map(each).join('; ')}; starting included).${held.join('')}` };
}

/** The page of all points. */
export function page(points) {
  const of = (panel) => points.filter((point) => point.panel === panel);
  const share = (x) => {
    const { operations } = of('context').find((point) => point.x === x);
    return Math.round((100 * 6 * 2 * 128 * x) / operations);
  };
  const panels = [
    ['context', (points) => costPanel(points, {
      title: 'Context: a training step of 2,048 tokens', xLabel: 'context, tokens', expectedLabel: 'operations', shape: ({ operations }) => operations,
      sentence: (ratio, first, last) => (ratio < 1
        ? `A token attends to half of its context on average, so attention is ${share(first)} % of the operations at ${first} and ${share(last)} % at ${last.toLocaleString('en')}, and costs more an operation than matrix products, whose operands are read once for many tokens: hence the steeper curve.`
        : `Short rows cost ${percent(ratio)} more than their operations: a tile of attention's queries is not filled by the end of each row, and there are more rows a step.`),
    })],
    ['width', (points) => costPanel(points, {
      title: 'Width: a training step of 2,048 tokens', xLabel: 'width, channels', expectedLabel: 'operations', shape: ({ operations }) => operations,
      sentence: (ratio, first) => (ratio > 1
        ? `At width ${first} a token costs ${ratio.toFixed(1)} times what its operations would: norms, gates and residual sums read and write in proportion to the width, not to its square, a product over few channels is too short to reach full speed, and each dispatch takes its 15 µs whatever the width.`
        : `At width ${first} a token costs ${percent(ratio)} less than in proportion to the largest width: either the machine was busy when that ran, or its weights no longer fit the processor's caches.`),
    })],
    ['answers', (points) => costPanel(points, {
      title: 'Answers a prompt: a step of the reward model', xLabel: 'K, answers a prompt', expectedLabel: 'constant', shape: () => 1,
      sentence: (ratio) => (ratio > 1
        ? `Few answers a prompt cost ${percent(ratio)} more a token. The passes are the same but for the ranking loss, a workgroup a prompt: unless the machine was busy, that is it.`
        : `Many answers a prompt cost ${percent(1 / ratio)} more a token. The passes are the same but for the ranking loss over K(K − 1)/2 pairs a prompt: unless the machine was busy, that is it.`),
    })],
    ['rows', rowsPanel],
  ].filter(([panel]) => of(panel).length > 0).map(([panel, draw]) => draw(of(panel)));
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Cost against size</title><style>
:root { color-scheme: light dark; --back: #fcfcfa; --text: #1c1e21; --dim: #62666c; --grid: #e2e2dc; --first: #b8440a; --second: #0063a6; --third: #3d7a1f; --fourth: #8a3ea8; --fifth: #8a6a00; --sixth: #00797a; }
@media (prefers-color-scheme: dark) {
  :root { --back: #16181b; --text: #e9e9e6; --dim: #a5a9af; --grid: #33383f; --first: #f2925a; --second: #63b3f0; --third: #8fce6b; --fourth: #cf9bea; --fifth: #d9b84a; --sixth: #5cc8c9; } }
body { margin: 0 auto; max-width: 78rem; padding: 1rem; background: var(--back); color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 2rem 1.5rem; }
h1 { font-size: 1.5rem; } figure { margin: 0; } h2 { font-size: 1.05rem; margin: 0 0 .3rem; } figcaption { max-width: 36rem; } svg { width: 100%; }
text { font-size: 13px; fill: var(--text); } .grid { stroke: var(--grid); } polyline { fill: none; stroke-width: 2; }
${KINDS.map((kind) => `polyline.${kind} { stroke: var(--${kind}); } circle.${kind}, text.${kind} { fill: var(--${kind}); }`).join('\n')}
polyline.expected { stroke: var(--dim); stroke-dasharray: 5 5; } text.expected { fill: var(--dim); }
</style></head><body>
<h1>Cost against size</h1>
<p>Medians over training steps of a Llama block of two layers; both axes logarithmic. Dashed: in proportion to what the label says, through the last point.</p>
<main>${panels.map(({ title, svg, text }) => `<figure><h2>${title}</h2>\n${svg}\n<figcaption>${text}</figcaption></figure>`).join('\n')}</main>
</body></html>
`;
}
