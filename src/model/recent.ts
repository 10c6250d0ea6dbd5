import { perDevice } from '../gpu/device.ts';
import { launches } from '../gpu/program.ts';

/**
 * Dispatches of all recorded steps that are kept on a device: each holds a bind group, which takes 5 KB and a mapping on Mesa's software driver
 * (gpu/garbage.ts). Small models' passes of all kinds and shapes fit; of 30 layers' training passes, some 30: recording one
 * again takes a small part of the time that such a pass runs.
 */
export const MOST_DISPATCHES = 24576;
/** The last steps stay however large they are: they may be about to run. */
const AT_LEAST = 8;

interface Kept<T> { key: string; value: T; dispatches: number; drop(): void }

/** What all Recents of a device keep, the longest unused first. */
const shelf = perDevice(() => ({ kept: new Set<Kept<unknown>>(), dispatches: 0 }));

/** Recorded steps that are kept on the open device, and the dispatches in them. */
export const recorded = (): { steps: number; dispatches: number } => ({ steps: shelf().kept.size, dispatches: shelf().dispatches });

/**
 * Recorded steps of one kind, by shape: those for the last `limit` different keys, as long as all kinds together have at most
 * MOST_DISPATCHES. What has not been asked for longest is dropped.
 */
export class Recent<T> {
  private readonly made = new Map<string, Kept<T>>();
  private readonly shelf = shelf();

  constructor(private readonly limit: number, private readonly drop: (value: T) => void) {}

  /** The value of a key; where it is not there, `make` records it at once. */
  get(key: string, make: () => T): T {
    const { shelf } = this;
    const kept = this.made.get(key) ?? this.keep(key, make);
    // The order of a Map and a Set is that of insertion: the longest unused come first.
    this.made.delete(key);
    this.made.set(key, kept);
    shelf.kept.delete(kept);
    shelf.kept.add(kept);
    if (this.made.size > this.limit) this.made.values().next().value!.drop();
    while (shelf.dispatches > MOST_DISPATCHES && shelf.kept.size > AT_LEAST) shelf.kept.values().next().value!.drop();
    return kept.value;
  }

  /** Drops everything. */
  clear(): void {
    for (const kept of [...this.made.values()]) kept.drop();
  }

  get size(): number {
    return this.made.size;
  }

  private keep(key: string, make: () => T): Kept<T> {
    const { shelf } = this;
    const before = launches();
    const value = make();
    const dispatches = launches() - before;
    shelf.dispatches += dispatches;
    const drop = (): void => {
      this.made.delete(key);
      shelf.kept.delete(kept);
      shelf.dispatches -= dispatches;
      this.drop(value);
    };
    const kept: Kept<T> = { key, value, dispatches, drop };
    return kept;
  }
}
