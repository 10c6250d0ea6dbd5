/**
 * Dawn's event loop spins while a promise of the device is pending, and takes a whole CPU core from a software driver.
 * So sleep for most of the time that the work is expected to take, and only then wait for it.
 */
export async function settle<T>(start: () => Promise<T>, expectedMs: number): Promise<T> {
  if (expectedMs > 3) await new Promise((resolve) => setTimeout(resolve, expectedMs * 0.9));
  return start();
}

/** A running estimate of how long a piece of device work takes, in ms: learns quickly, forgets slow outliers. */
export class Expectation {
  private ms = 0;

  get value(): number {
    return this.ms;
  }

  add(measuredMs: number): void {
    this.ms = this.ms === 0 ? measuredMs * 0.9 : Math.min(measuredMs, 0.7 * this.ms + 0.3 * measuredMs);
  }
}
