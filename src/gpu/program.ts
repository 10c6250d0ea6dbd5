import { RunError } from '../errors.ts';
import { arena, type Use } from './arena.ts';
import { isOpen, submit } from './backend.ts';
import { gpu, perDevice, tooLarge } from './device.ts';
import { leaveToCollector } from './garbage.ts';
import { Mirror, StepMirrors, written } from './mirror.ts';
import { type MirrorCopy, MirrorTexture, StepTexture, stepTextures } from './mirror_texture.ts';
import type { Form, Kernel } from './kernel.ts';
import { placeOf, Tensor, valueOf, withScratch } from './tensor.ts';

interface Dispatch {
  kind: 'dispatch';
  kernel: Form;
  /** What it binds, as long as the step is being recorded, and then the bind group. */
  tensors: readonly (Tensor | Mirror)[];
  uniform?: GPUBuffer;
  group?: GPUBindGroup;
  x: number;
  y: number;
  z: number;
  /** Floating-point operations, or what takes about as long. */
  work: number;
}
/** Bytes of a buffer; of a scratch value until the step is planned. */
interface Span { buffer: GPUBuffer; offset: number; bytes: number }
interface Clear { kind: 'clear'; on: Span }
interface Copy { kind: 'copy'; from: Span; to: Span }
type Command = Dispatch | Clear | Copy | MirrorCopy;

/**
 * The most work of a submission to a GPU. Systems take a GPU for hung and reset it where it is busy with one submission (Linux' amdgpu:
 * 2 to 10 s, macOS: some seconds) or one dispatch (Windows: 2 s) for too long. A small integrated GPU of 0.6 TFLOP/s that reaches a third
 * of that needs half a minute for a pass of GPT-2 over 8 × 1024 tokens, and a second for so much; a large one gets 50 submissions
 * instead of one, for tens of microseconds each that pass while it computes.
 */
const MOST_WORK = 2e11;
/** Work that takes such a GPU as long as to read or write a byte, of 30 GB a second. */
const WORK_A_BYTE = 3;

/**
 * A step of fixed shape: the list of its dispatches with pipelines, bind groups and sizes, made once by running the model's
 * code (`record`), and replayed as often as wanted for a few microseconds a dispatch. What changes from step to step
 * (token ids, learning rate, seeds) lies in buffers that are uploaded before.
 */
export class Program<T = unknown> {
  readonly commands: Command[] = [];
  /** Copies of lasting buffers that are due before a run where the buffer has changed, and the lasting buffers that a run changes. */
  mirrored: readonly MirrorCopy<MirrorTexture>[] = [];
  changes: readonly GPUBuffer[] = [];
  /** What the recorded function returned: usually the tensors to upload to and to read. */
  result!: T;
  private readonly onDevice = isOpen(gpu().device);
  private discarded = false;
  /** Places in `commands` behind which a submission ends; the last one ends with the step. */
  cuts: readonly number[] = [];

  /** Waits until every pipeline is compiled; must be called before the first run. */
  async ready(progress?: (done: number, all: number) => void): Promise<this> {
    const kernels = [...new Set(this.commands.flatMap((c) => (c.kind === 'dispatch' ? [c.kernel] : [])))];
    let done = 0;
    await Promise.all(kernels.map((k) => k.ready.then(() => progress?.(++done, kernels.length))));
    return this;
  }

  get dispatches(): number {
    return this.commands.length;
  }

  /** Gives up what the step holds, except the tensors that others know: it must not run again. */
  discard(): void {
    const groups = this.commands.reduce((sum, { kind }) => sum + Number(kind === 'dispatch'), 0);
    this.commands.length = 0;
    this.mirrored = this.changes = [];
    this.cuts = [];
    this.discarded = true;
    if (this.onDevice) leaveToCollector(groups);
  }

  /** Submits the step, in as many parts as its work asks for. Returns at once; the device works on it. */
  run(): void {
    let first = 0;
    for (const end of [...this.cuts, this.commands.length]) {
      submit((encoder) => this.encode(encoder, first, end));
      first = end;
    }
  }

  /** Records the step's commands `first` to `end` into an encoder. */
  private encode(encoder: GPUCommandEncoder, first: number, end: number): void {
    if (this.discarded) throw new Error('a step was run that has been given up');
    for (const copy of first === 0 ? this.mirrored : []) {
      if (copy.texture.stale) copy.texture.copyFrom(encoder, copy);
      copy.texture.stale = false;
    }
    let pass: GPUComputePassEncoder | undefined;
    let pipeline: GPUComputePipeline | undefined;
    for (let i = first; i < end; i++) {
      const command = this.commands[i];
      if (command.kind === 'dispatch') {
        pass ??= encoder.beginComputePass();
        const next = command.kernel.pipeline!;
        if (next !== pipeline) pass.setPipeline((pipeline = next));
        pass.setBindGroup(0, command.group!);
        pass.dispatchWorkgroups(command.x, command.y, command.z);
        continue;
      }
      pass?.end();
      pass = pipeline = undefined;
      if (command.kind === 'clear') encoder.clearBuffer(command.on.buffer, command.on.offset, command.on.bytes);
      else if (command.kind === 'mirror') (command.texture as MirrorTexture).copyFrom(encoder, command); // settled
      else encoder.copyBufferToBuffer(command.from.buffer, command.from.offset, command.to.buffer, command.to.offset, command.to.bytes);
    }
    pass?.end();
    if (end === this.commands.length) for (const buffer of this.changes) written(buffer);
  }
}

/** Where a step is cut into submissions; a software driver has no watchdog and gets all at once. */
function cutsOf(commands: readonly Command[]): number[] {
  const cuts: number[] = [];
  if (gpu().software) return cuts;
  let sum = 0;
  commands.forEach((command, i) => {
    const work = workOf(command);
    if (sum > 0 && sum + work > MOST_WORK) {
      cuts.push(i);
      sum = 0;
    }
    sum += work;
  });
  return cuts;
}

function workOf(command: Command): number {
  if (command.kind === 'dispatch') return command.work;
  if (command.kind === 'mirror') return WORK_A_BYTE * (command.end - command.start);
  return WORK_A_BYTE * (command.kind === 'clear' ? command.on.bytes : 2 * command.to.bytes);
}

let recording: Program | undefined;
let launched = 0;

/** Dispatches that have been recorded so far, on any device and on paper. */
export const launches = (): number => launched;

let mirrors: StepMirrors | undefined;

const valuesIn = (buffers: readonly GPUBuffer[]) => buffers.flatMap((buffer) => valueOf(buffer) ?? []);

/** The scratch values that a command uses. A mirror is copied before the kernel runs that reads it. */
function usesOf(command: Command): Use {
  switch (command.kind) {
    case 'mirror': return { reads: valuesIn([command.buffer]), writes: [] };
    case 'clear': return { reads: [], writes: valuesIn([command.on.buffer]) };
    case 'copy': return { reads: valuesIn([command.from.buffer]), writes: valuesIn([command.to.buffer]) };
    case 'dispatch': {
      const { writes } = command.kernel;
      const bound = (written: boolean): GPUBuffer[] =>
        command.tensors.flatMap((t, i) => (t instanceof Tensor && writes.includes(i) === written ? [t.buffer] : []));
      return { reads: valuesIn(bound(false)), writes: valuesIn(bound(true)) };
    }
  }
}

/** The mirrors that a step copies in passing, with when they are needed. */
function mirrorsOf(commands: readonly Command[]): StepTexture[] {
  const mirrors = new Set<StepTexture>();
  commands.forEach((command, at) => {
    const used = command.kind === 'mirror' ? [command] : command.kind === 'dispatch' ? command.tensors : [];
    for (const one of used) {
      if (!('texture' in one) || !(one.texture instanceof StepTexture)) continue;
      mirrors.add(one.texture);
      one.texture.first = Math.min(one.texture.first, at);
      one.texture.last = at;
    }
  });
  return [...mirrors];
}

/** Puts the buffers and places in a command that its scratch values have been given. */
function settle(command: Command): void {
  if (!isOpen(gpu().device)) return;
  if (command.kind === 'dispatch') {
    command.group = bind(command);
    command.tensors = [];
  } else if (command.kind === 'mirror') {
    const { buffer, offset } = placeOf({ buffer: command.buffer, offset: command.start });
    const { texture } = command;
    Object.assign(command, { texture: texture instanceof StepTexture ? texture.texture : texture, buffer, start: offset, end: offset + command.end - command.start });
  } else for (const span of command.kind === 'clear' ? [command.on] : [command.from, command.to]) Object.assign(span, placeOf(span));
}

function bind({ kernel, tensors, uniform }: Dispatch): GPUBindGroup {
  const entries: GPUBindGroupEntry[] = tensors.map((t, binding) => {
    if (t instanceof Mirror) return { binding, resource: t.texture.view };
    const size = Math.min(Math.max(16, Math.ceil(t.bytes / 16) * 16), t.buffer.size - t.offset);
    return { binding, resource: { ...placeOf(t), size } };
  });
  if (uniform) entries.push({ binding: tensors.length, resource: { buffer: uniform } });
  return gpu().device.createBindGroup({ label: kernel.name, layout: kernel.layout, entries });
}

const spanOf = ({ buffer, offset, bytes }: Tensor): Span => ({ buffer, offset, bytes });

/** Runs `build`, whose kernel launches become a Program; no work reaches the device yet. */
export function record<T>(build: () => T): Program<T> {
  if (recording) throw new Error('a step is already being recorded');
  const program = new Program<T>();
  recording = program as Program;
  mirrors = new StepMirrors((copy) => program.commands.push(copy));
  try {
    program.result = withScratch(build);
    program.changes = [...mirrors.changes];
    program.mirrored = [...mirrors.read];
    arena().plan(program.commands.map(usesOf));
    stepTextures().plan(mirrorsOf(program.commands));
    program.commands.forEach(settle);
    program.cuts = cutsOf(program.commands);
  } finally {
    recording = mirrors = undefined;
  }
  return program;
}

/** Records, compiles and runs once: for work that is done a single time. */
export async function runOnce<T>(build: () => T): Promise<T> {
  const program = await record(build).ready();
  program.run();
  return program.result;
}

/** A uniform's words: integers as they are, `f32(x)` for a float. */
export type Word = number | { f32: number };
export const f32 = (value: number): Word => ({ f32: value });

const uniformsByWords = perDevice(() => new Map<string, GPUBuffer>());

function uniformBuffer(words: Word[]): GPUBuffer {
  const { device } = gpu();
  const uniforms = uniformsByWords();
  const bits = new Uint32Array(Math.max(4, pad(words.length)));
  const floats = new Float32Array(bits.buffer);
  words.forEach((w, i) => {
    if (typeof w === 'number') bits[i] = w;
    else floats[i] = w.f32;
  });
  const key = bits.join();
  let buffer = uniforms.get(key);
  if (!buffer) {
    buffer = device.createBuffer({ size: bits.byteLength, usage: 0x40 | 0x8 }); // UNIFORM | COPY_DST
    device.queue.writeBuffer(buffer, 0, bits);
    uniforms.set(key, buffer);
  }
  return buffer;
}

const pad = (n: number): number => (n + 3) & ~3;

/** Has the step that is being recorded copy large weights where it reads them, and not once an update: in a step of many tokens that costs little. */
export function copyWeightsInPassing(): void {
  if (!mirrors) throw new Error('mirrors exist only while a step is recorded');
  mirrors.passing = true;
}

/** The tensor as a kernel binds it that reads it as a texture (see mirror.ts). */
export function mirrorOf(tensor: Tensor): Mirror {
  if (!mirrors) throw new Error('mirrors exist only while a step is recorded');
  return mirrors.of(tensor);
}

/** The matrix as a product binds it that reads it in panels (see mirror.ts). */
export function mirrorInPanels(tensor: Tensor): Mirror {
  if (!mirrors) throw new Error('mirrors exist only while a step is recorded');
  return mirrors.inPanels(tensor);
}

/** Whether the step that is being recorded has just read this matrix in panels, so that they need no copy. */
export const isMirroredInPanels = (tensor: Tensor): boolean => mirrors?.hasPanels(tensor) ?? false;

/** Adds a copy of a whole tensor to a mirror of its own (standingMirror) to the recorded step. */
export function copyToMirror({ buffer, offset, bytes }: Tensor, { texture }: Mirror): void {
  if (!recording) throw new Error('copyToMirror outside a recorded step');
  recording.commands.push({ kind: 'mirror', texture, buffer, start: offset, end: offset + bytes });
}

/**
 * Adds one dispatch to the step that is being recorded: `tensors` are bindings 0…n−1 in the kernel's order, f16 or f32 each (a
 * mirror where it reads a texture), `words` its uniform. `groups` are workgroups in x, y, z. `operations` are those on numbers, where
 * they take longer than to move the tensors.
 */
export function launch(kernel: Kernel, tensors: (Tensor | Mirror)[], words: Word[], groups: [number, number?, number?], operations = 0): void {
  if (!recording) throw new Error(`kernel ${kernel.name} launched outside a recorded step`);
  const form = kernel.form(tensors.map((t) => t.storage));
  if (tensors.length !== form.tensors) throw new Error(`kernel ${kernel.name} takes ${form.tensors} tensors, got ${tensors.length}`);
  const { maxBinding } = gpu();
  for (const t of tensors) if (t instanceof Tensor && t.bytes > maxBinding) throw tooLarge(`kernel ${kernel.name}: a tensor`, t.bytes, maxBinding);
  const uniform = form.hasUniform ? uniformBuffer(words) : undefined;
  const [x, y = 1, z = 1] = groups;
  const limit = gpu().adapter.limits.maxComputeWorkgroupsPerDimension;
  if (x > limit || y > limit || z > limit) throw new RunError(`kernel ${kernel.name}: ${x} × ${y} × ${z} workgroups are more than the device takes`, 'lower --micro-batch-tokens');
  const moved = tensors.reduce((sum, t) => sum + (t instanceof Mirror ? 0 : t.bytes), 0);
  recording.commands.push({ kind: 'dispatch', kernel: form, tensors, uniform, x, y, z, work: Math.max(operations, WORK_A_BYTE * moved) });
  launched++;
  for (const binding of form.writes) mirrors!.overwritten((tensors[binding] as Tensor).buffer);
}

/** Adds a filling with zeros to the recorded step. */
export function clear(tensor: Tensor): void {
  if (!recording) throw new Error('clear outside a recorded step');
  recording.commands.push({ kind: 'clear', on: spanOf(tensor) });
  mirrors!.overwritten(tensor.buffer);
}

/** Adds a copy between tensors of the same layout to the recorded step. */
export function copy(from: Tensor, to: Tensor): void {
  if (!recording) throw new Error('copy outside a recorded step');
  if (from.storage !== to.storage) throw new Error(`copy from ${from.storage} to ${to.storage}`);
  if (from.bytes < to.bytes) throw new Error('copy from a smaller tensor');
  recording.commands.push({ kind: 'copy', from: spanOf(from), to: spanOf(to) });
  mirrors!.overwritten(to.buffer);
}
