import { acquireBuffer, isOpen } from './backend.ts';
import { gpu, perDevice } from './device.ts';

/** Where a value may begin: what a binding's offset must be a multiple of. */
const ALIGNMENT = 256;

/**
 * What a step needs memory for between two of its commands. It stands for its buffer until the step has been recorded, and with it
 * when every value is needed first and last.
 */
export class Value {
  /** Bytes set aside. */
  readonly size: number;
  /** The commands that use it first and last. */
  first = Infinity;
  last = -1;
  /** Whether the step has not given it up: what is read when the step has run. */
  held = true;
  /** Values that a command writes while it reads this one, or the reverse: the same buffer may not be bound for both. */
  readonly apart = new Set<Value>();
  slab?: Slab;
  offset = 0;

  /** @param bytes asked for */
  constructor(readonly bytes: number) {
    this.size = Math.ceil(Math.max(bytes, 1) / ALIGNMENT) * ALIGNMENT;
  }

  get buffer(): GPUBuffer {
    if (!this.slab?.buffer) throw new Error('a scratch tensor that no command uses, or whose step is not recorded yet');
    return this.slab.buffer;
  }
}

/** The values that a command reads and writes. */
export interface Use { reads: readonly Value[]; writes: readonly Value[] }

/** A buffer that values of all steps lie in; on paper, one that may still grow. */
export interface Slab {
  size: number;
  buffer?: GPUBuffer;
  /** Of the step that is being planned, by offset. */
  placed: Value[];
}

/** Buffers that a step opens at most for want of room, beside those that it needs because what it reads must lie apart from what it writes. */
const OPENED = [1, 2, 3];

/**
 * The orders in which values are placed: those first that are needed for the longest time, or the largest. The first wastes 1 to 3 % in
 * training's steps where the second wastes 5 to 10, but there are steps of which the reverse is true.
 */
const ORDERS: readonly ((a: Value, b: Value) => number)[] = [
  (a, b) => b.last - b.first - (a.last - a.first) || b.size - a.size,
  (a, b) => b.size - a.size || a.first - b.first,
];

/** Times that all steps are planned into memory that grows, at most. */
const ROUNDS = 4;

/**
 * Plans all steps again and again, until a round changes nothing: then each step fits, in whichever order they are recorded for the device.
 * @param round plans all of them once, and returns the bytes that this takes
 */
export function untilSettled(round: () => number): void {
  let before = -1;
  let now = 0;
  for (let i = 0; now > before && i < ROUNDS; i++) [before, now] = [now, round()];
}

/**
 * The buffers of what lives only within a recorded step. Steps run one after the other, so all of them lie in the same few buffers; within a
 * step values lie side by side, and one behind another where the one is no longer needed when the other comes. Which goes where
 * is planned when a step has been recorded: one value after another (see ORDERS), each where the buffers grow least, then into the smallest gap.
 */
export class Arena {
  private slabs: Slab[] = [];
  /** The most bytes that values of a step need at once: what recorded steps need at least. */
  most = 0;
  /** On paper: the steps so far, each as its values. */
  private readonly steps: { values: Value[]; most: number }[] = [];
  private settled = 0;
  private there: readonly number[] = [];
  private readonly onPaper = !isOpen(gpu().device);

  /** @param limit the most bytes of a buffer, but for a value that alone is larger */
  constructor(private readonly limit = gpu().maxShared) {}

  /** The buffers' sizes; on paper, those in which all steps recorded so far find room. */
  get sizes(): number[] {
    if (this.onPaper && this.settled < this.steps.length) this.settle();
    return this.slabs.map(({ size }) => size);
  }

  /** Finds places for a step's values, from what its commands use. */
  plan(uses: readonly Use[]): void {
    const values = lifetimes(uses);
    const most = mostAtOnce(values, uses.length);
    this.most = Math.max(this.most, most);
    if (this.onPaper) this.steps.push({ values, most });
    else this.place(values);
  }

  /** Makes buffers of these sizes, but for those that are there, before the steps come that they were planned for. */
  reserve(sizes: readonly number[]): void {
    for (const size of sizes.slice(this.slabs.length)) this.slabs.push({ size, buffer: acquireBuffer(size), placed: [] });
  }

  /** On paper: plans with buffers that are there already, and do not grow. */
  beside(sizes: readonly number[]): void {
    this.there = sizes;
  }

  private settle(): void {
    const steps = [...this.steps].sort((a, b) => b.most - a.most);
    const slabsFor = (how: { opened: number; order: number }, some: typeof steps): Slab[] => {
      const slabs: Slab[] = this.there.map((size) => ({ size, placed: [] }));
      untilSettled(() => {
        for (const { values } of some) fit(values, slabs, { fixed: this.there.length, limit: this.limit, ...how });
        return bytesOf(slabs);
      });
      return slabs;
    };
    const tried = OPENED.flatMap((opened) => ORDERS.map((_, order) => ({ opened, order, bytes: bytesOf(slabsFor({ opened, order }, steps.slice(0, 1))) })));
    this.slabs = slabsFor(tried.reduce((best, each) => (each.bytes < best.bytes ? each : best)), steps);
    this.settled = this.steps.length;
  }

  private place(values: Value[]): void {
    const fixed = this.slabs.length;
    const how = { fixed, opened: OPENED[0], limit: this.limit };
    let best = { order: 0, bytes: Infinity };
    for (const order of ORDERS.keys()) {
      const slabs = [...this.slabs];
      fit(values, slabs, { ...how, order });
      if (slabs.length === fixed) return; // nothing to add
      if (bytesOf(slabs) < best.bytes) best = { order, bytes: bytesOf(slabs) };
    }
    fit(values, this.slabs, { ...how, order: best.order });
    for (const slab of this.slabs.slice(fixed)) slab.buffer = acquireBuffer(slab.size);
  }
}

const bytesOf = (slabs: readonly Slab[]): number => slabs.reduce((sum, { size }) => sum + size, 0);

/** The arena of the open device. */
export const arena = perDevice(() => new Arena());

/** Sets when values are needed and which must lie apart, and returns those that are. */
function lifetimes(uses: readonly Use[]): Value[] {
  const values = new Set<Value>();
  uses.forEach(({ reads, writes }, at) => {
    for (const value of [...reads, ...writes]) {
      if (value.slab) continue; // of another step
      values.add(value);
      value.first = Math.min(value.first, at);
      value.last = value.held ? uses.length : at;
    }
    for (const read of reads) {
      for (const write of writes) {
        if (read === write) continue;
        read.apart.add(write);
        write.apart.add(read);
      }
    }
  });
  return [...values];
}

function mostAtOnce(values: readonly Value[], commands: number): number {
  const change = new Float64Array(commands + 2);
  for (const { first, last, bytes } of values) {
    change[first] += bytes;
    change[last + 1] -= bytes;
  }
  let [now, most] = [0, 0];
  for (const bytes of change) most = Math.max(most, (now += bytes));
  return most;
}

/**
 * Gives each value a slab and an offset: nowhere two values that are needed at once overlap, or share a slab that a command would both read and write.
 * The first `fixed` slabs stay as large as they are, others grow; at most `opened` are added for want of room, more where no slab is far
 * enough from all that a value must lie apart from.
 */
function fit(values: readonly Value[], slabs: Slab[], { fixed, opened, limit, order }: { fixed: number; opened: number; limit: number; order: number }): void {
  for (const slab of slabs) slab.placed = [];
  for (const value of values) value.slab = undefined;
  for (const value of [...values].sort(ORDERS[order])) {
    const excluded = new Set([...value.apart].map(({ slab }) => slab));
    let best: (Place & { slab: Slab }) | undefined;
    slabs.forEach((slab, i) => {
      if (excluded.has(slab)) return;
      const place = placeIn(slab, value);
      const end = place.offset + value.size;
      if (end > slab.size && (i < fixed || end > limit)) return;
      if (!best || place.growth < best.growth || place.growth === best.growth && place.room < best.room) best = { ...place, slab };
    });
    if (!best || best.growth >= value.size && slabs.length < fixed + opened) {
      const slab: Slab = { size: 0, placed: [] };
      slabs.push(slab);
      best = { slab, offset: 0, growth: value.size, room: Infinity };
    }
    const { slab, offset } = best;
    value.slab = slab;
    value.offset = offset;
    slab.size = Math.max(slab.size, offset + value.size);
    const { placed } = slab;
    let at = placed.length;
    while (at > 0 && placed[at - 1].offset > offset) at--;
    placed.splice(at, 0, value);
  }
}

interface Place { offset: number; growth: number; room: number }

/** The smallest gap that a slab has for a value among those that are needed at the same time, or the end behind them. */
function placeIn({ size, placed }: Slab, value: Value): Place {
  let end = 0;
  let best: Place | undefined;
  for (const other of placed) {
    if (other.first > value.last || other.last < value.first) continue;
    const room = other.offset - end;
    if (room >= value.size && (!best || room < best.room)) best = { offset: end, growth: 0, room };
    end = Math.max(end, other.offset + other.size);
  }
  return best ?? { offset: end, growth: Math.max(0, end + value.size - size), room: Infinity };
}
