import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { UsageError } from '../../src/errors.ts';
import { exportGguf } from '../../src/files/gguf_export.ts';
import { openModel } from '../../src/files/model_folder.ts';
import type { ImportSettings } from '../../src/options.ts';
import { importModel } from '../../src/stages/import.ts';
import { SHAPES, writeRandomModel } from '../files/random_model.ts';
import { temporaryFolder } from '../files/temporary.ts';
import { recordingContext } from './context.ts';

const dir = temporaryFolder();
const source = join(dir, 'model.gguf');
const settings = (more: object): ImportSettings => ({ source, overwrite: false, dtype: 'f32', quiet: true, ...more }) as ImportSettings;

test.before(async () => {
  await writeRandomModel(join(dir, 'from'), SHAPES['qwen2']!);
  const model = openModel(join(dir, 'from'));
  await exportGguf(model, join(dir, 'from'), source, 'f32');
  model.close();
});

test('a GGUF file becomes a model folder, in float32 or float16', async () => {
  for (const [dtype, stored] of [['f32', 'F32'], ['f16', 'F16']]) {
    const out = join(dir, `out-${dtype}`);
    const context = recordingContext('import');
    await importModel(settings({ out, dtype }), context);
    const model = openModel(out);
    assert.is(model.dtype, stored);
    assert.is(model.config.family, 'qwen2');
    model.close();
    const summary = JSON.parse(context.lines[0]!) as Record<string, unknown>;
    assert.equal([context.lines.length, summary['out'], summary['family']], [1, out, 'qwen2']);
    assert.is(summary['parameters'], model.plan.reduce((sum, { shape }) => sum + shape.reduce((p, n) => p * n, 1), 0));
  }
});

test('a folder with a model is kept unless --overwrite is given', async () => {
  const out = join(dir, 'kept');
  await writeRandomModel(out, SHAPES['gpt2']!);
  const before = readFileSync(join(out, 'model.safetensors'));
  await importModel(settings({ out }), recordingContext('import')).then(() => assert.unreachable(), (error: unknown) => {
    assert.instance(error, UsageError);
    assert.match((error as Error).message, /^--out: .*kept holds a model already$/);
  });
  assert.equal(readFileSync(join(out, 'model.safetensors')), before);
  await importModel(settings({ out, overwrite: true }), recordingContext('import'));
  assert.is(openModel(out).config.family, 'qwen2');
});

test('a file that is no GGUF leaves no folder', async () => {
  const path = join(dir, 'text.gguf');
  writeFileSync(path, 'this is not a model, but it is longer than a header');
  const out = join(dir, 'none');
  await importModel(settings({ source: path, out }), recordingContext('import')).then(() => assert.unreachable(), (error: unknown) => {
    assert.instance(error, UsageError);
    assert.match((error as Error).message, /text.gguf: is not a GGUF file/);
  });
  assert.not(existsSync(out));
});

test.run();
