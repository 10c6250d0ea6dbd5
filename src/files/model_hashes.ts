import { createHash } from 'node:crypto';
import { createReadStream, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { withBases } from './adapter.ts';
import { isModelFile, isTokenizerFile } from './model_files.ts';

/**
 * SHA-256 in hexadecimal of a model's files by their names: config, tokenizer, weights. Of an adapter also those of the model below,
 * as `base/NAME`.
 */
export async function modelHashes(dir: string): Promise<Record<string, string>> {
  const hashes: Record<string, string> = {};
  let prefix = '';
  for (const folder of withBases(dir)) {
    for (const [name, hash] of Object.entries(await hashesIn(folder, isModelFile))) hashes[prefix + name] = hash;
    prefix += 'base/';
  }
  return hashes;
}

/** The same of a tokenizer's files. */
export const tokenizerHashes = (dir: string): Promise<Record<string, string>> => hashesIn(dir, isTokenizerFile);

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
