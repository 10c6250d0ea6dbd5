import { stderr } from 'node:process';

/** What a stage tells about one phase of its work. */
export interface ProgressUpdate {
  /** Units done so far, of `total` where it is known. */
  done: number;
  /** Shown as they are, such as `{loss: '2.31', 'tokens/s': '3120'}`. */
  fields?: Record<string, string | number>;
}

interface Screen {
  write(text: string): unknown;
  isTTY?: boolean;
  columns?: number;
}

const REDRAW_MS = 100;
const FIRST_LINE_MS = 2000;
const LINE_MS = 15000;

/**
 * Progress on standard error: on a terminal one live line with a bar, the rate, the given fields and the time left;
 * elsewhere a plain line now and then, and one when a phase ends. Silent with --quiet.
 */
export class Progress {
  #screen: Screen;
  #quiet: boolean;
  #color: boolean;
  #now: () => number;
  #phase:
    { label: string; unit: string; total?: number; from: number; started: number; last: ProgressUpdate } | undefined;
  #drawn = -Infinity;
  #onScreen = false;

  constructor({
    quiet = false,
    screen = stderr as Screen,
    color = !process.env.NO_COLOR,
    now = () => performance.now(),
  } = {}) {
    this.#screen = screen;
    this.#quiet = quiet;
    this.#color = color;
    this.#now = now;
  }

  /**
   * Begins a phase, ending the one before. `from` is where a resumed run goes on, so that the rate counts this run
   * alone.
   */
  start(
    label: string,
    { total, unit = 'steps', from = 0 }: { total?: number; unit?: string; from?: number } = {},
  ): void {
    this.end();
    this.#phase = { label, unit, total, from, started: this.#now(), last: { done: from } };
    this.#drawn = this.#screen.isTTY ? -Infinity : this.#now() - LINE_MS + FIRST_LINE_MS;
  }

  update(update: ProgressUpdate): void {
    const phase = this.#phase;
    if (!phase) return;
    phase.last = { done: update.done, fields: { ...phase.last.fields, ...update.fields } };
    const now = this.#now();
    if (this.#quiet || now - this.#drawn < (this.#screen.isTTY ? REDRAW_MS : LINE_MS)) return;
    this.#drawn = now;
    this.#draw();
  }

  /** Ends the phase and leaves its last state as a line. */
  end(): void {
    const phase = this.#phase;
    if (!phase) return;
    if (!this.#quiet && phase.last.done > phase.from) {
      this.#draw(true);
      if (this.#screen.isTTY) this.#screen.write('\n');
    } else {
      this.clear();
    }
    this.#onScreen = false;
    this.#phase = undefined;
  }

  /** Takes the bar off the screen, so that another line can be written; the next update draws it again. */
  clear(): void {
    if (!this.#onScreen) return;
    this.#screen.write('\r\x1b[K');
    this.#onScreen = false;
    this.#drawn = -Infinity;
  }

  #draw(ended = false): void {
    const { label, unit, total, from, started, last } = this.#phase!;
    const seconds = (this.#now() - started) / 1000;
    const rate = seconds > 0 ? (last.done - from) / seconds : 0;
    const parts = [total === undefined ? `${last.done} ${unit}` : `${last.done}/${total} ${unit}`];
    if (rate > 0) parts.push(rate >= 1 ? `${significant(rate)} ${unit}/s` : `${significant(1 / rate)} s each`);
    if (ended) parts.push(`took ${duration(seconds)}`);
    else if (total !== undefined && rate > 0) parts.push(`${duration((total - last.done) / rate)} left`);
    for (const [name, value] of Object.entries(last.fields ?? {})) {
      parts.push(`${name} ${typeof value === 'number' ? significant(value) : value}`);
    }
    const text = parts.join('  ');
    if (!this.#screen.isTTY) {
      this.#screen.write(`${label}: ${text}\n`);
      return;
    }
    const columns = this.#screen.columns ?? 80;
    const hasBar = total !== undefined && total > 0 && !ended && columns >= 70;
    const share = hasBar ? Math.min(1, last.done / total) : undefined;
    const bar = share === undefined ? '' : `${this.#bar(share)} `;
    const room = Math.max(20, columns - 1) - (share === undefined ? 0 : BAR_WIDTH + 1) - label.length - 1;
    this.#screen.write(`\r\x1b[K${label} ${bar}${text.slice(0, Math.max(0, room))}`);
    this.#onScreen = true;
  }

  #bar(share: number): string {
    const full = Math.round(share * BAR_WIDTH);
    const [done, open] = ['━'.repeat(full), '─'.repeat(BAR_WIDTH - full)];
    return this.#color ? `\x1b[36m${done}\x1b[2m${open}\x1b[0m` : done + open;
  }
}

const BAR_WIDTH = 20;

/** Four significant digits without an exponent where the number is of ordinary size. */
function significant(value: number): string {
  if (Number.isInteger(value) || !Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1e4 ? value.toFixed(0) : size >= 1e-3 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
}

/** `1h 02m`, `3m 05s` or `4.2s`. */
export function duration(seconds: number): string {
  if (seconds < 59.95) return `${seconds.toFixed(1)}s`;
  const whole = Math.round(seconds);
  const pad = (n: number) => String(n).padStart(2, '0');
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${pad(whole % 60)}s`;
  return `${Math.floor(whole / 3600)}h ${pad(Math.floor((whole % 3600) / 60))}m`;
}
