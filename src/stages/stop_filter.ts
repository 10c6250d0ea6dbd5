/** Lets text through up to the first of `stops`; what may be the beginning of one is held back until it is known. */
export class StopFilter {
  private held = '';
  private stopped = false;

  constructor(private readonly stops: readonly string[]) {}

  /** What of the text so far can be shown now. */
  push(piece: string): string {
    if (this.stopped) return '';
    this.held += piece;
    const at = Math.min(...this.stops.map((stop) => this.held.indexOf(stop)).filter((i) => i >= 0));
    if (Number.isFinite(at)) {
      this.stopped = true;
      return this.held.slice(0, at);
    }
    const keep = Math.max(0, ...this.stops.map((stop) => overlap(this.held, stop)));
    const shown = this.held.slice(0, this.held.length - keep);
    this.held = this.held.slice(this.held.length - keep);
    return shown;
  }

  /** What was held back, when nothing more comes. */
  end(): string {
    return this.stopped ? '' : this.held;
  }
}

/** Length of the longest end of `text` that begins `stop`. */
function overlap(text: string, stop: string): number {
  for (let n = Math.min(text.length, stop.length - 1); n > 0; n--) if (text.endsWith(stop.slice(0, n))) return n;
  return 0;
}
