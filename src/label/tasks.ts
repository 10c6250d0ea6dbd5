import { createHash } from 'node:crypto';
import { RowError, streamRows } from '../data/collect.ts';
import type { Row } from '../data/jsonl.ts';
import { asCompletions, asRanking, type Prompt } from '../data/rows.ts';
import { UsageError } from '../errors.ts';

/** One prompt whose answers are to be ranked. */
export interface Task {
  /** Names prompt and answers: the same for the same texts, whatever file they come from. */
  id: string;
  row: Row;
  prompt: string;
  completions: string[];
  /** The different answers in the order in which they are shown, drawn anew for each prompt and labeler. */
  shown: string[];
}

/**
 * The rows of completion files that leave something to rank: two or more different answers.
 * @throws UsageError for a bad row, or where no row has two different answers
 */
export async function readTasks(files: string[], labeler: string, seed: number): Promise<Task[]> {
  const tasks: Task[] = [];
  const seen = new Set<string>();
  for await (const { row, item } of streamRows(files, (value) => asCompletions(value))) {
    if (item.single) {
      const hint = 'rlhf sample --k 4 writes rows with "completions"';
      throw new UsageError(`${row.source}:${row.line}: one "completion" leaves nothing to rank`, hint);
    }
    const id = taskId(item.prompt, item.completions);
    const different = [...new Set(item.completions)];
    if (different.length < 2 || seen.has(id)) continue;
    seen.add(id);
    const shown = shuffled(different, `${seed}\0${labeler}\0${id}`);
    tasks.push({ id, row, prompt: promptText(item.prompt), completions: item.completions, shown });
  }
  if (tasks.length > 0) return tasks;
  throw new UsageError(`${files.join(', ')}: no row has two different answers`, 'draw several with rlhf sample --k 4');
}

export function taskId(prompt: Prompt, completions: string[]): string {
  return createHash('sha256').update(JSON.stringify([prompt, completions])).digest('hex').slice(0, 32);
}

/** The ids that a labeler has ranked in a rankings file, which may not exist yet. */
export async function rankedIds(file: string, labeler: string): Promise<Set<string>> {
  const ids = new Set<string>();
  const read = (value: Record<string, unknown>) => {
    const { prompt, completions } = asRanking(value);
    return { id: taskId(prompt, completions), by: value.labeler };
  };
  for await (const { item } of streamRows([file], read)) if (item.by === labeler) ids.add(item.id);
  return ids;
}

/**
 * Ranks of the shown answers → ranks of the row's answers, 1 is best, without gaps; equal texts get equal ranks.
 * @throws RowError where a rank is missing or no whole number from 1
 */
export function ranksOf(task: Task, ranksShown: unknown): number[] {
  if (!Array.isArray(ranksShown) || ranksShown.length !== task.shown.length) {
    throw new RowError(`expected ${task.shown.length} ranks`);
  }
  const given = new Map<string, number>();
  task.shown.forEach((text, i) => {
    const rank: unknown = ranksShown[i];
    if (!Number.isSafeInteger(rank) || (rank as number) < 1) throw new RowError(`answer ${i + 1} has no rank`);
    given.set(text, rank as number);
  });
  const levels = [...new Set(given.values())].sort((a, b) => a - b);
  return task.completions.map((text) => levels.indexOf(given.get(text)!) + 1);
}

function promptText(prompt: Prompt): string {
  if (typeof prompt === 'string') return prompt;
  return prompt.map(({ role, content }) => `${role}: ${content}`).join('\n\n');
}

/** A fixed order for a key: by the hash of key and text. */
function shuffled(texts: string[], key: string): string[] {
  const hash = (text: string) => createHash('sha256').update(`${key}\0${text}`).digest('hex');
  return texts.map((text) => ({ text, place: hash(text) }))
    .sort((a, b) => (a.place < b.place ? -1 : 1))
    .map(({ text }) => text);
}
