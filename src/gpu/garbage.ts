import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** Bind groups that may wait for the collector before it is called. */
const MOST_WAITING = 8192;
let waiting = 0;
let collect: (() => void) | undefined;
let asked = false;

/**
 * Tells that so many bind groups are no longer referred to. WebGPU has no way to destroy one: it goes when its object is collected. V8 sees a few
 * words of it and is in no hurry, but Mesa's software driver holds 5 KB of memory for each and a mapping of its own, of which Linux allows
 * a process 65,530; the driver crashes at the next. So the collector is called (tens of milliseconds) when enough of them wait for it.
 */
export function leaveToCollector(groups: number): void {
  waiting += groups;
  if (waiting < MOST_WAITING) return;
  waiting = 0;
  if (!asked) {
    asked = true;
    setFlagsFromString('--expose-gc'); // seen by contexts made from now on
    collect = runInNewContext('globalThis.gc') as (() => void) | undefined;
  }
  collect?.();
}
