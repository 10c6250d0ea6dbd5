import { gpu } from './device.ts';
import { launch } from './program.ts';
import { pad4, release, scratch, type Storage, type Tensor } from './tensor.ts';
import { kernel } from './kernel.ts';
import addSource from '../../kernels/add.wgsl';

/** A weight: its values and, while it is trained, the tensor of the same layout that its gradient is added to. */
export interface Parameter {
  readonly name: string;
  readonly value: Tensor;
  readonly grad?: Tensor;
  /** Row slices of a table that is larger than a binding; `value` and `grad` are then the first of them. */
  readonly slices?: readonly TableSlice[];
}

/** Rows `firstRow`… of a table. */
export interface TableSlice {
  readonly value: Tensor;
  readonly grad?: Tensor;
  readonly firstRow: number;
}

/** A table's slices: itself, where it is whole. */
export const slicesOf = (table: Parameter): readonly TableSlice[] => table.slices ?? [{ ...table, firstRow: 0 }];

/**
 * Reverse-mode differentiation over recorded launches. Ops push their backward while they record their forward; `backward`
 * records the gradients in reverse. Gradients of weights are added to `Parameter.grad` in place, and a value's gradient
 * is handed on in the buffer it lies in: a residual stream's gradient is one buffer from the last layer to the first.
 * (tfjs's own tape keeps every gradient until the end and adds out of place: twice the activations' memory.)
 */
export class Tape {
  private readonly steps: (() => void)[] = [];
  private readonly gradients = new Map<Tensor, Tensor>();
  private readonly uses = new Map<Tensor, number>();
  private readonly finished = new Set<Tensor>();

  /**
   * `training` false: nothing is kept, and values are given back as soon as they are done with. `storage` is how values
   * within a layer are stored; the residual stream, statistics and all gradients are f32.
   */
  constructor(readonly training: boolean, readonly storage: Storage = 'f32') {}

  /** A scratch tensor for a value within a layer. */
  value(rows: number, cols: number): Tensor {
    return scratch(rows, cols, pad4(cols), this.storage);
  }

  /** Adds an op's backward, which needs the values `keeps`; they live until it has run. */
  push(keeps: Tensor[], backward: () => void): void {
    if (!this.training) return;
    for (const t of keeps) this.uses.set(t, (this.uses.get(t) ?? 0) + 1);
    this.steps.push(() => {
      backward();
      for (const t of keeps) {
        const left = this.uses.get(t)! - 1;
        this.uses.set(t, left);
        if (left === 0 && this.finished.has(t)) release(t);
      }
    });
  }

  /** The forward pass has no further use for these values. */
  done(...tensors: (Tensor | undefined)[]): void {
    for (const t of tensors) {
      if (!t) continue;
      if ((this.uses.get(t) ?? 0) === 0) release(t);
      else this.finished.add(t);
    }
  }

  /** The gradient that has arrived for `y`; the caller owns it and releases or hands it on. */
  take(y: Tensor): Tensor {
    const gradient = this.gradients.get(y);
    if (!gradient) throw new Error('no gradient has reached this value');
    this.gradients.delete(y);
    return gradient;
  }

  /** Where to put a gradient of `x`: `add` tells that the tensor holds another path's gradient, to be added to. */
  target(x: Tensor): { gradient: Tensor; add: boolean } {
    const known = this.gradients.get(x);
    if (known) return { gradient: known, add: true };
    const gradient = scratch(x.rows, x.cols, x.stride);
    this.gradients.set(x, gradient);
    return { gradient, add: false };
  }

  /** Hands a finished gradient of `x` over, with its buffer. */
  give(x: Tensor, gradient: Tensor): void {
    const known = this.gradients.get(x);
    if (!known) {
      this.gradients.set(x, gradient);
      return;
    }
    addInto(known, gradient);
    release(gradient);
  }

  /** Records the backward pass from the gradients given so far to all weights; returns that of `input`, if one is named. */
  backward(input?: Tensor): Tensor | undefined {
    for (const step of this.steps.reverse()) step();
    this.steps.length = 0;
    const wanted = input && this.take(input);
    release(...this.gradients.values());
    this.gradients.clear();
    return wanted;
  }
}

/** a += b, element by element. */
export function addInto(a: Tensor, b: Tensor): void {
  const count = (a.rows * a.stride) / 4;
  launch(kernel('add', addSource), [a, b], [count], spread(count));
}

/**
 * A grid for `lanes` lanes in each of `rows` rows, and the rows that a workgroup of 64 takes one after the other: a kernel has its
 * rows from its workgroup and need not divide, which a driver that runs shaders on a CPU does lane by lane. On such a driver
 * starting a workgroup costs as much as some hundred numbers, on a GPU a row each fills it better.
 */
export function rowGrid(lanes: number, rows: number): { each: number; grid: [number, number] } {
  const { software, adapter } = gpu();
  const most = adapter.limits.maxComputeWorkgroupsPerDimension;
  const each = Math.max(software ? 8 : 1, Math.ceil(rows / most));
  return { each, grid: [Math.ceil(lanes / 64), Math.ceil(rows / each)] };
}

/** Workgroups of 64 for `count` lanes, in two dimensions where one does not reach (kernels number them x first). */
export function spread(count: number): [number, number] {
  const groups = Math.ceil(count / 64);
  const limit = gpu().adapter.limits.maxComputeWorkgroupsPerDimension;
  return groups <= limit ? [groups, 1] : [limit, Math.ceil(groups / limit)];
}
