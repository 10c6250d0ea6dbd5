import chartLibrary from '../../node_modules/uplot/dist/uPlot.iife.min.js';
import chartStyle from '../../node_modules/uplot/dist/uPlot.min.css';
import { chartsOf, inWords, short, type Chart } from './charts.ts';
import { escapeHtml, fill, scriptJson } from './html.ts';
import style from './page.css';
import template from './page.html';
import type { RunLog } from './run_log.ts';
import type { Comparison } from './samples.ts';
import type { Table } from './table.ts';

export interface PageContent {
  title: string;
  runs: RunLog[];
  table?: Table;
  samples: Comparison[];
  /** ISO 8601. */
  made: string;
}

const stageNames: Record<string, string> = {
  pretrain: 'Pretraining',
  'train-sft': 'Supervised fine-tuning',
  'train-rm': 'Reward model',
  ppo: 'PPO',
};

/** The whole page: one HTML text that loads nothing from anywhere. */
export function page({ title, runs, table, samples, made }: PageContent): string {
  const charts: Chart[] = [];
  const sections = [...new Set(runs.map(({ command }) => command))].map((command) => {
    const same = withOwnNames(runs.filter((run) => run.command === command));
    const own = chartsOf(same);
    const figures = own.map((chart) => figure(chart, charts.push(chart) - 1));
    return section(
      command,
      stageNames[command] ?? command,
      (own.length === 0 ? '<p>No metrics yet.</p>' : `<div class="charts">${figures.join('\n')}</div>`) +
        same.map(episodesOf).join('') + same.map(settingsOf).join(''),
    );
  });
  const parts = [
    table ? section('results', table.title, tableOf(table)) : '',
    samples.length > 0 ? section('samples', 'Answers side by side', samples.map(comparisonOf).join('\n')) : '',
    ...sections,
  ];
  return fill(template, {
    title: escapeHtml(title),
    made: escapeHtml(made),
    runs: escapeHtml(runs.map(({ path }) => path).join(', ')),
    chartStyle,
    style,
    chartLibrary,
    content: parts.join('\n'),
    charts: scriptJson(charts),
  });
}

/** Runs that share a folder name are told apart by their paths. */
function withOwnNames(runs: RunLog[]): RunLog[] {
  const count = (name: string) => runs.filter((run) => run.name === name).length;
  return runs.map((run) => (count(run.name) > 1 ? { ...run, name: run.path } : run));
}

const section = (id: string, title: string, body: string): string =>
  `<section aria-labelledby="${escapeHtml(id)}"><h2 id="${escapeHtml(id)}">${escapeHtml(title)}</h2>
${body}</section>`;

function figure(chart: Chart, index: number): string {
  const words = chart.lines.map((line) => `<li>${escapeHtml(inWords(line, chart.steps))}</li>`).join('');
  return `<figure><figcaption><b>${escapeHtml(chart.title)}</b> <span>${escapeHtml(chart.text)}</span></figcaption>
<div class="chart" data-chart="${index}" aria-hidden="true"></div>
<details><summary>In numbers</summary><ul>${words}</ul></details></figure>`;
}

function tableOf({ columns, rows, notes }: Table): string {
  const head = columns.map((name) => `<th scope="col">${escapeHtml(name)}</th>`).join('');
  const body = rows.map(([first = '', ...others]) => {
    const cells = others.map((cell) => `<td>${escapeHtml(cell)}</td>`).join('');
    return `<tr><th scope="row">${escapeHtml(first)}</th>${cells}</tr>`;
  });
  return `<div class="wide" tabindex="0" role="region" aria-label="Table of results">
<table><thead><tr>${head}</tr></thead><tbody>${body.join('\n')}</tbody></table></div>
${notes.map((note) => `<p>${escapeHtml(note)}</p>`).join('\n')}`;
}

function comparisonOf({ prompt, answers }: Comparison): string {
  const cards = answers.map(({ label, text, reward }) => {
    const score = reward === undefined ? '' : ` <span class="reward">reward ${short(reward)}</span>`;
    return `<div><h4>${escapeHtml(label)}${score}</h4><p>${escapeHtml(text)}</p></div>`;
  });
  return `<article><h3 class="prompt">${escapeHtml(prompt.trim())}</h3>
<div class="answers">${cards.join('')}</div></article>`;
}

function episodesOf({ name, rollout }: RunLog): string {
  if (!rollout) return '';
  const items = rollout.episodes.map(({ prompt, completion, score }) =>
    `<li><p class="prompt">${escapeHtml(prompt.trim())}</p><p>${escapeHtml(completion)}` +
    `${score === undefined ? '' : ` <span class="reward">score ${short(score)}</span>`}</p></li>`);
  return `<details><summary>Episodes of ${escapeHtml(name)}, ${escapeHtml(rollout.file)}</summary>
<ol>${items.join('\n')}</ol></details>`;
}

function settingsOf({ name, path, record }: RunLog): string {
  const { settings, ...facts } = record;
  const rows = Object.entries({ folder: path, ...facts, ...(settings as Record<string, unknown> | undefined) });
  const body = rows.map(([key, value]) => {
    const text = typeof value === 'string' ? value : JSON.stringify(value);
    return `<tr><th scope="row">${escapeHtml(key)}</th><td>${escapeHtml(text ?? '')}</td></tr>`;
  });
  return `<details><summary>Settings of ${escapeHtml(name)}</summary>
<div class="wide" tabindex="0" role="region" aria-label="Settings of ${escapeHtml(name)}">
<table class="settings"><tbody>${body.join('\n')}</tbody></table></div></details>`;
}
