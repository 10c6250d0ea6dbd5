import { createHash } from 'node:crypto';
import { createReadStream, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { isAdapterFolder, openAdapter } from './adapter.ts';

/** The files that make a model what it is. */
const PART = /^(config|adapter_config|tokenizer)\.json$|\.safetensors$/;

/**
 * SHA-256 in hexadecimal of a model's files by their names: config, tokenizer, weights. Of an adapter also those of the model below,
 * as `base/NAME`.
 */
export async function modelHashes(dir: string): Promise<Record<string, string>> {
  const hashes: Record<string, string> = {};
  for (const name of readdirSync(dir).filter((each) => PART.test(each)).sort()) hashes[name] = await fileHash(join(dir, name));
  if (!isAdapterFolder(dir)) return hashes;
  const adapter = openAdapter(dir);
  adapter.close();
  for (const [name, hash] of Object.entries(await modelHashes(adapter.base))) hashes[`base/${name}`] = hash;
  return hashes;
}

async function fileHash(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}
