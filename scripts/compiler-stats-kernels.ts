// The part of compiler-stats.mjs that runs on a driver without a GPU behind it: records the steps of known models on paper, in every
// form that an adapter can get, and compiles each of their kernels, one after the other. On standard output a JSON line a kernel; on
// standard error, between what the driver prints, a line `compiler-stats: N` before kernel N.
import { writeSync } from 'node:fs';
import { GPT2, SMALL_LLAMA } from '../src/bench/configs.ts';
import { ADAM } from '../src/bench/models.ts';
import { startBackend } from '../src/gpu/backend.ts';
import { gpu, withMatrix, withSubgroup } from '../src/gpu/device.ts';
import { type MatrixUnits, matrixUnits } from '../src/gpu/matrix_units.ts';
import { onPaper } from '../src/gpu/paper.ts';
import { persistent, type Storage } from '../src/gpu/tensor.ts';
import type { PackRow } from '../src/model/batch.ts';
import type { Head, ModelConfig } from '../src/model/config.ts';
import { Decoder } from '../src/model/decoder.ts';
import { Generator } from '../src/model/generator.ts';
import type { Model } from '../src/model/load.ts';
import { likelihood, Passes, prepare } from '../src/model/passes.ts';
import { Weights } from '../src/model/weights.ts';
import { Update } from '../src/stages/ppo_update.ts';
import { Optimizer } from '../src/train/optimizer.ts';

const llama = (width: number, heads: number, kvHeads: number, headDim: number, hidden: number, vocabSize: number): ModelConfig => ({
  ...SMALL_LLAMA, vocabSize, width, layers: 2, heads, kvHeads, headDim, hidden, context: 2048,
});
/** Two layers of each: further ones take the same kernels. */
const MODELS: Record<string, ModelConfig> = {
  'gpt2-124M': { ...GPT2, layers: 2 },
  'smollm2-135M': llama(576, 9, 3, 64, 1536, 49152),
  'llama-1B': llama(2048, 32, 8, 64, 8192, 128256),
  'qwen2-1.7B': llama(2048, 16, 8, 128, 6144, 151936),
  'quickstart': { ...SMALL_LLAMA, layers: 2 },
};
const options = JSON.parse(process.argv[2]!) as { models: string[]; only: string };

/** A kernel's text, what it was made of, and how often each step launches it. */
interface Found { kernel: string; constants: string; steps: Record<string, number> }
const found = new Map<string, Found>();

/** Runs `work`, which records a step, on paper, and notes the kernels that it launches. */
function collect(step: string, work: () => void): void {
  onPaper(() => {
    const { device } = gpu();
    const texts = new Map<unknown, string>();
    Object.assign(device, {
      createPipelineLayout: ({ bindGroupLayouts: [layout] }: { bindGroupLayouts: unknown[] }) => layout,
      createShaderModule: ({ label, code }: GPUShaderModuleDescriptor) => {
        const [, kernel, constants] = /^(\S+) (.*)$/.exec(label!)!;
        if (!found.has(code)) found.set(code, { kernel: kernel!, constants: constants!, steps: {} });
        return code;
      },
      createComputePipelineAsync: async ({ layout, compute }: { layout: unknown; compute: { module: string } }) => {
        texts.set(layout, compute.module);
        return {};
      },
      createBindGroup: ({ layout }: { layout: unknown }) => {
        const { steps } = found.get(texts.get(layout)!)!;
        steps[step] = (steps[step] ?? 0) + 1;
        return {};
      },
    });
    work();
  });
}

function onPaperModel(config: ModelConfig, trainable: boolean, head: Head, dtype: Storage): Model {
  const weights = new Weights(config, head, trainable, dtype);
  return { dir: '', config, decoder: new Decoder(config, weights), weights, rewardGain: 1, rewardBias: 0, scale: persistent(2, 1, 1) };
}

const rowsOf = (count: number, length: number): PackRow[] => {
  const at = Array.from({ length: length - 1 }, (_, i) => i);
  return Array.from({ length: count }, () => ({ ids: new Uint32Array(length), at }));
};

/** Training on long rows, PPO's update on short ones, and sampling for 64 and for 8 prompts. */
function record(name: string, config: ModelConfig, dtype: Storage): void {
  const long = rowsOf(name === 'gpt2-124M' ? 8 : 4, Math.min(config.context, 1024));
  const model = (trainable: boolean, head: Head): Model => onPaperModel(config, trainable, head, dtype);
  collect(`${name} train`, () => {
    const { decoder, weights } = model(true, 'lm');
    const passes = new Passes(decoder, { training: true, objective: likelihood(persistent(2, 4)) });
    prepare([{ passes, batches: [long] }]);
    void new Optimizer('adam', weights, ADAM).ready();
  });
  collect(`${name} ppo`, () => {
    const [policy, value] = [model(true, 'lm'), model(true, 'reward')];
    const optimizers = { policy: new Optimizer('policy', policy.weights, ADAM), value: new Optimizer('value', value.weights, ADAM) };
    const update = new Update(policy, policy.weights, value, optimizers, undefined,
      { temperature: 1, gamma: 0, microBatchTokens: 8192, emaDecay: 0, compiling: () => undefined });
    prepare(update.upcoming([rowsOf(32, 60)]));
  });
  for (const slots of [64, 8]) {
    collect(`${name} sample ${slots}`, () => {
      new Generator(model(false, 'lm').decoder, { slots, length: Math.min(config.context, 1024), ends: [] }).prepare(rowsOf(slots, 24).map(({ ids }) => ids));
    });
  }
}

await startBackend();
const { info, features, device, subgroup: own } = gpu();
for (const name of options.models.length > 0 ? options.models : Object.keys(MODELS)) {
  for (const subgroup of new Set([own, 0, 32, 64])) {
    await withSubgroup(subgroup, async () => {
      for (const dtype of features.has('shader-f16') ? ['f32', 'f16'] as const : ['f32'] as const) {
        const units: MatrixUnits | undefined = dtype === 'f16' && subgroup === own ? matrixUnits(info, features, own) : undefined;
        for (const matrix of units ? [undefined, units] : [undefined]) await withMatrix(matrix, async () => record(name, MODELS[name]!, dtype));
      }
    });
  }
}
const chosen = [...found].filter(([, { kernel, constants }]) => `${kernel} ${constants}`.includes(options.only));
console.log(JSON.stringify({ adapter: info.description, features: [...features], kernels: chosen.length,
  subgroups: [info.subgroupMinSize, info.subgroupMaxSize], matrices: [...((info as { subgroupMatrixConfigs?: Iterable<object> }).subgroupMatrixConfigs ?? [])].length }));
for (const [index, [code, { kernel, constants, steps }]] of chosen.entries()) {
  writeSync(2, `\ncompiler-stats: ${index}\n`);
  let error: string | undefined;
  try {
    await device.createComputePipelineAsync({ layout: 'auto', compute: { module: device.createShaderModule({ code }), entryPoint: 'main' } });
  } catch (failure) {
    error = (failure as Error).message;
  }
  writeSync(1, `${JSON.stringify({ index, kernel, constants, steps, error })}\n`);
}
process.exit(0);
