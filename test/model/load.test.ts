import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { UsageError } from '../../src/errors.ts';
import { checkReader, loadTokenizer, type Model } from '../../src/model/load.ts';
import { MODELS, temporaryFolder } from '../files/temporary.ts';

const dir = temporaryFolder();

/** stories260K with another number of rows in its config. */
function withRows(name: string, rows: number): string {
  const folder = join(dir, name);
  cpSync(join(MODELS, 'stories260K'), folder, { recursive: true });
  const path = join(folder, 'config.json');
  writeFileSync(path, JSON.stringify({ ...(JSON.parse(readFileSync(path, 'utf8')) as object), vocab_size: rows }));
  return folder;
}

test('a tokenizer knows the rows of the embedding, of an adapter those of its base, with its own tokenizer or without', async () => {
  const whole = await loadTokenizer(withRows('whole', 512));
  const highest = Math.max(...whole.encode('Tim said'));
  const base = withRows('small', highest);
  const adapters = ['bare', 'with-tokenizer'].map((name) => join(dir, name));
  for (const folder of adapters) {
    mkdirSync(folder);
    writeFileSync(join(folder, 'adapter_config.json'), JSON.stringify({
      peft_type: 'LORA', r: 1, lora_alpha: 1, task_type: 'CAUSAL_LM', base_model_name_or_path: base,
    }));
    cpSync(join(MODELS, 'llama-tiny/model.safetensors'), join(folder, 'adapter_model.safetensors'));
  }
  cpSync(join(base, 'tokenizer.json'), join(adapters[1]!, 'tokenizer.json'));
  cpSync(join(base, 'tokenizer_config.json'), join(adapters[1]!, 'tokenizer_config.json'));
  for (const folder of [base, ...adapters]) {
    const tokenizer = await loadTokenizer(folder);
    assert.throws(() => tokenizer.encode('Tim said'), new RegExp(`token ${highest}, but the model's embedding has ${highest} rows`));
    assert.equal(tokenizer.encode('a'), whole.encode('a'));
  }
});

test('a model that reads another one\'s tokens needs as many rows, and a context for the longest row', () => {
  const model = (name: string, vocabSize: number, context: number) => ({ dir: name, config: { vocabSize, context } }) as Model;
  const policy = model('policy', 100, 64);
  const refused = (reader: Model, length: number, message: string) =>
    assert.throws(() => checkReader('--reward', reader, policy, length), (e: Error) => e instanceof UsageError && e.message === message);
  refused(model('rm', 99, 64), 10, '--reward: rm has 99 rows in its embedding, but reads tokens of policy, which has 100');
  refused(model('rm', 100, 32), 33, '--reward: rm has a context of 32, but rows may have 33 tokens');
  checkReader('--reward', model('rm', 100, 32), policy, 32);
  checkReader('--reward', model('rm', 128, 64), policy, 64);
});

test.run();
