/**
 * Turns a growing list of ids into text piece by piece: a piece is held back while it ends within a character whose
 * bytes are spread over several tokens. All pieces together are the decoded list; only bytes that are no UTF-8 may show
 * otherwise, since what follows them can change how they are decoded.
 */
export class TextStream {
  readonly #decode: (ids: number[]) => string;
  /** The ids of the last piece, which decide how the next one begins (a leading space), and `#given`, their text. */
  #context: number[] = [];
  #given = '';
  /** Ids whose text has not been given out. */
  #pending: number[] = [];

  constructor(decode: (ids: number[]) => string) {
    this.#decode = decode;
  }

  /** The text that this id completes, often empty. */
  push(id: number): string {
    this.#pending.push(id);
    const text = this.#decode([...this.#context, ...this.#pending]);
    if (text.endsWith('\ufffd')) return '';
    const piece = text.slice(this.#given.length);
    if (piece === '') return '';
    this.#context = this.#pending;
    this.#pending = [];
    this.#given = this.#decode(this.#context);
    return piece;
  }

  /** What is still held back: broken characters become U+FFFD. */
  end(): string {
    const piece = this.#decode([...this.#context, ...this.#pending]).slice(this.#given.length);
    this.#context = [];
    this.#pending = [];
    this.#given = '';
    return piece;
  }
}
