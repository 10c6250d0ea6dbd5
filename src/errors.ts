/** Wrong usage or bad input: one line names the option or `file:line` and the bad value; the program exits with code 2. */
export class UsageError extends Error {
  constructor(message: string, readonly hint?: string) {
    super(message);
    this.name = 'UsageError';
  }
}

/** Something failed while working (device, disk, a reward program): the program exits with code 1. */
export class RunError extends Error {
  constructor(message: string, readonly hint?: string) {
    super(message);
    this.name = 'RunError';
  }
}

/** The user stopped the run (Ctrl-C) after a checkpoint was saved: the program exits with code 130. */
export class Interrupted extends Error {
  constructor(message = 'interrupted') {
    super(message);
    this.name = 'Interrupted';
  }
}
