import { createHash } from 'node:crypto';
import { createReadStream, existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { isAdapterFolder, openAdapter } from './adapter.ts';

const TOKENIZER = /^(tokenizer|tokenizer_config|special_tokens_map|generation_config)\.json$|^chat_template\.jinja$/;
const MODEL = /^(config|adapter_config)\.json$|^(model|adapter_model)(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?$/;

/**
 * SHA-256 in hexadecimal of a model's files by their names: config, tokenizer, weights. Of an adapter also those of the model below,
 * as `base/NAME`.
 */
export async function modelHashes(dir: string): Promise<Record<string, string>> {
  const hashes = await hashesIn(dir, (name) => MODEL.test(name) || TOKENIZER.test(name));
  if (!isAdapterFolder(dir)) return hashes;
  const adapter = openAdapter(dir);
  adapter.close();
  for (const [name, hash] of Object.entries(await modelHashes(adapter.base))) hashes[`base/${name}`] = hash;
  return hashes;
}

/** A model's folder, and those of the models that it is an adapter on. */
export function withBases(dir: string): string[] {
  if (!isAdapterFolder(dir)) return [dir];
  const adapter = openAdapter(dir);
  adapter.close();
  return [dir, ...(existsSync(adapter.base) ? withBases(adapter.base) : [])];
}

/** The same of a tokenizer's files. */
export const tokenizerHashes = (dir: string): Promise<Record<string, string>> => hashesIn(dir, (name) => TOKENIZER.test(name));

async function hashesIn(dir: string, matters: (name: string) => boolean): Promise<Record<string, string>> {
  const hashes: Record<string, string> = {};
  for (const name of readdirSync(dir).filter(matters).sort()) hashes[name] = await fileHash(join(dir, name));
  return hashes;
}

/** SHA-256 of a file. */
export async function fileHash(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}
