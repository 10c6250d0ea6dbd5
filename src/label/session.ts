import { withFields } from '../data/output_row.ts';
import type { RankingsFile } from './rankings_file.ts';
import { ranksOf, type Task } from './tasks.ts';

/** The prompts that one labeler still has to rank, in order. */
export class Session {
  #waiting: Task[];
  #done: number;
  readonly total: number;
  #shownAt = new Map<string, number>();

  constructor(
    tasks: Task[],
    ranked: ReadonlySet<string>,
    readonly file: RankingsFile,
    readonly labeler: string,
    readonly now: () => number = () => performance.now(),
  ) {
    this.#waiting = tasks.filter(({ id }) => !ranked.has(id));
    this.total = tasks.length;
    this.#done = this.total - this.#waiting.length;
  }

  get done(): number {
    return this.#done;
  }

  /** The prompt to rank now; its clock runs from the first time that it is shown. */
  next(): Task | undefined {
    const task = this.#waiting[0];
    if (task && !this.#shownAt.has(task.id)) this.#shownAt.set(task.id, this.now());
    return task;
  }

  find(id: unknown): Task | undefined {
    return this.#waiting.find((task) => task.id === id);
  }

  /** Writes the ranking: the row with `ranks`, `labeler` and `seconds`. @throws RowError for ranks that are none */
  rank(task: Task, ranksShown: unknown): void {
    const ranks = ranksOf(task, ranksShown);
    const seconds = Number(((this.now() - (this.#shownAt.get(task.id) ?? this.now())) / 1000).toFixed(1));
    this.file.append(withFields(task.row, { ranks, labeler: this.labeler, seconds }));
    this.#waiting = this.#waiting.filter(({ id }) => id !== task.id);
    this.#done++;
  }

  /** Puts the prompt behind the others. */
  skip(task: Task): void {
    this.#waiting = [...this.#waiting.filter(({ id }) => id !== task.id), task];
    this.#shownAt.delete(task.id);
  }
}
