import { execFileSync } from 'node:child_process';
import { existsSync, lstatSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { UsageError } from '../../src/errors.ts';
import { ADAPTER_SCORE, adapterTensorName, addUpdate, outIn } from '../../src/files/adapter.ts';
import { writeAdapter } from '../../src/files/adapter_write.ts';
import { openGguf } from '../../src/files/gguf.ts';
import { openModel } from '../../src/files/model_folder.ts';
import type { Head } from '../../src/model/config.ts';
import type { ExportSettings } from '../../src/options.ts';
import { exportModel } from '../../src/stages/export.ts';
import { SHAPES, writeRandomModel } from '../files/random_model.ts';
import { temporaryFolder } from '../files/temporary.ts';
import { seeded } from '../gpu/device.ts';
import { recordingContext } from './context.ts';

const dir = temporaryFolder();
const settings = (more: object): ExportSettings => ({ overwrite: false, merge: false, dtype: 'f32', quiet: true, ...more }) as ExportSettings;
const names = { llama: 'q_proj', gpt2: 'c_attn' } as const;

/** A base model and an adapter of it, without a tokenizer of its own as PEFT leaves it. */
async function adapterOf(family: keyof typeof names, head: Head): Promise<{ base: string; adapter: string }> {
  const [base, adapter] = [join(dir, `${family}-${head}-base`), join(dir, `${family}-${head}-adapter`)];
  const config = await writeRandomModel(base, SHAPES[family]!);
  mkdirSync(adapter);
  const { normals } = seeded(2);
  const tensors = new Map<string, Float32Array>();
  const model = openModel(base);
  for (const planned of model.plan) {
    if (!planned.name.endsWith(`.${names[family]}.weight`)) continue;
    const [out, input] = outIn(planned);
    tensors.set(adapterTensorName(planned.name, 'A'), normals(2 * input));
    tensors.set(adapterTensorName(planned.name, 'B'), normals(2 * out));
  }
  model.close();
  if (head === 'reward') tensors.set(ADAPTER_SCORE, normals(config.width));
  await writeAdapter(adapter, { config, head, base, rank: 2, alpha: 3, targets: [names[family]], tensors, rewardBias: 0.75, rewardGain: 2 });
  return { base, adapter };
}

for (const family of ['llama', 'gpt2'] as const) {
  test(`${family}: --merge writes the base with the product added, its tokenizer beside it`, async () => {
    const { base, adapter } = await adapterOf(family, 'lm');
    const out = join(dir, `${family}-merged`);
    const context = recordingContext('export');
    await exportModel(settings({ model: adapter, merge: true, out }), context);
    assert.equal(JSON.parse(context.lines[0]!), { command: 'export', out, merged: adapter });
    const [merged, plain] = [openModel(out, { kind: 'lm' }), openModel(base)];
    let changed = 0;
    for (const planned of plain.plan) {
      const wanted = plain.read(planned.name);
      if (planned.name.endsWith(`.${names[family]}.weight`)) {
        const tensors = openAdapterTensors(adapter);
        addUpdate(wanted, 0, planned, { rank: 2, scale: 1.5, a: tensors(planned.name, 'A'), b: tensors(planned.name, 'B') });
        changed++;
      }
      assert.equal(merged.read(planned.name), wanted, planned.name);
    }
    assert.is(changed, 2);
    assert.equal(readFileSync(join(out, 'tokenizer.json')), readFileSync(join(base, 'tokenizer.json')));
    assert.not(existsSync(join(out, 'adapter_config.json')));
    const half = join(dir, `${family}-half`);
    await exportModel(settings({ model: adapter, merge: true, out: half, dtype: 'f16' }), recordingContext('export'));
    assert.is(openModel(half).dtype, 'F16');
  });
}

function openAdapterTensors(adapter: string): (name: string, part: 'A' | 'B') => Float32Array {
  const bytes = readFileSync(join(adapter, 'adapter_model.safetensors'));
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, start).toString()) as Record<string, { data_offsets: [number, number] }>;
  return (name, part) => {
    const [from, to] = header[adapterTensorName(name, part)]!.data_offsets;
    return new Float32Array(new Uint8Array(bytes.subarray(start + from, start + to)).buffer);
  };
}

test('a merged reward model keeps its head, bias and gain', async () => {
  const { adapter } = await adapterOf('llama', 'reward');
  const out = join(dir, 'reward-merged');
  await exportModel(settings({ model: adapter, merge: true, out }), recordingContext('export'));
  const [merged, source] = [openModel(out, { kind: 'reward' }), openModel(adapter)];
  assert.equal([merged.rewardBias, merged.rewardGain], [0.75, 2]);
  assert.equal(merged.read('score.weight'), source.read('score.weight'));
});

test('--gguf of an adapter is the merged model', async () => {
  const adapter = join(dir, 'gpt2-lm-adapter');
  const out = join(dir, 'adapter.gguf');
  await exportModel(settings({ model: adapter, gguf: 'f32', out }), recordingContext('export'));
  const [file, merged] = [openGguf(out), openModel(join(dir, 'gpt2-merged'))];
  assert.equal(file.read('token_embd.weight'), merged.read('transformer.wte.weight'));
  const fused = merged.read('transformer.h.1.attn.c_attn.weight'); // [32, 96], in GGUF [96, 32]
  assert.equal(file.read('blk.1.attn_qkv.weight').map((x, i) => x - fused[(i % 32) * 96 + Math.floor(i / 32)]!), new Float32Array(fused.length));
});

test('outputs that exist are kept, and --merge wants an adapter', async () => {
  const refused = (more: object, pattern: RegExp): Promise<void> =>
    exportModel(settings(more), recordingContext('export')).then(() => assert.unreachable(), (error: unknown) => {
      assert.instance(error, UsageError);
      assert.match((error as Error).message, pattern);
    });
  const [model, adapter] = [join(dir, 'gpt2-lm-base'), join(dir, 'gpt2-lm-adapter')];
  await refused({ model, merge: true, out: join(dir, 'x') }, /^--merge: .* is not a LoRA adapter$/);
  await refused({ model: adapter, merge: true, out: join(dir, 'gpt2-merged') }, /^--out: .* exists already$/);
  await refused({ model, gguf: 'f16', out: join(dir, 'adapter.gguf') }, /^--out: .* exists already$/);
  await refused({ model, gguf: 'f16', out: dir, overwrite: true }, /^--out: a folder, not a file/);
  await refused({ model, gguf: 'f16', out: join(dir, 'none', 'x.gguf') }, /^--out: no such folder: .*none$/);
  await exportModel(settings({ model, gguf: 'f16', out: join(dir, 'adapter.gguf'), overwrite: true }), recordingContext('export'));
  // Neither the base nor the adapter is replaced by what is made of both.
  await refused({ model: adapter, merge: true, out: model, overwrite: true }, /^--out: .* is the base itself/);
  await refused({ model: adapter, merge: true, out: adapter, overwrite: true }, /^--out: .* is the adapter itself/);
  await refused({ model: adapter, merge: true, out: join(model, 'config.json') }, /config\.json is a file, not a folder$/);
  if (process.platform !== 'win32') {
    execFileSync('mkfifo', [join(dir, 'pipe')]);
    await refused({ model, gguf: 'f16', out: join(dir, 'pipe'), overwrite: true }, /^--out: a device or pipe, not a file/);
  }
  await refused({ model, gguf: 'f16', out: join(model, 'config.json', 'x.gguf') }, /^--out: no such folder: .*config\.json$/);
  // A link stays one: what it leads to is written.
  symlinkSync('linked.gguf', join(dir, 'link.gguf'));
  await exportModel(settings({ model, gguf: 'f16', out: join(dir, 'link.gguf') }), recordingContext('export'));
  assert.ok(lstatSync(join(dir, 'link.gguf')).isSymbolicLink());
  assert.equal(readFileSync(join(dir, 'linked.gguf')), readFileSync(join(dir, 'adapter.gguf')));
});

test.run();
