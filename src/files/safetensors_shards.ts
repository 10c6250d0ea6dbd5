import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { UsageError } from '../errors.ts';
import { readJsonObject, show } from './json.ts';
import { openSafetensors, type StoredTensor, type TensorSource } from './safetensors.ts';

/** Each shard stays open: fewer than the 1,024 files that a process may usually have. */
const MAX_SHARDS = 256;
const MAX_INDEX_BYTES = 16 * 2 ** 20;

/**
 * Opens the shards that an index file (`model.safetensors.index.json`) names, as one source of tensors.
 * @throws UsageError where the index is malformed, a shard is missing, or a tensor is not in the shard it is said to be
 * in
 */
export function openShards(indexPath: string): TensorSource {
  const map = readJsonObject(indexPath, MAX_INDEX_BYTES)['weight_map'];
  if (typeof map !== 'object' || map === null || Array.isArray(map)) {
    throw new UsageError(`${indexPath}: weight_map must be an object, but is ${show(map)}`);
  }
  const shards = new Map<string, TensorSource>();
  const close = () => shards.forEach((shard) => shard.close());
  try {
    const home = new Map<string, TensorSource>();
    const tensors = new Map<string, StoredTensor>();
    for (const [name, file] of Object.entries(map)) {
      // A shard lies beside its index: a path could lead anywhere.
      if (typeof file !== 'string' || !/^[\w.-]+$/.test(file) || !file.endsWith('.safetensors')) {
        throw new UsageError(`${indexPath}: tensor ${show(name)}: ${show(file)} is not the name of a safetensors file`);
      }
      const shard = shards.get(file) ?? openShard(file);
      shards.set(file, shard);
      const tensor = shard.tensors.get(name);
      if (!tensor) throw new UsageError(`${indexPath}: tensor ${show(name)} is not in ${file}, as weight_map says`);
      home.set(name, shard);
      tensors.set(name, tensor);
    }
    for (const shard of shards.values()) {
      const stray = shard.names.find((name) => home.get(name) !== shard);
      if (stray !== undefined) {
        throw new UsageError(`${shard.path}: tensor ${show(stray)} is not listed for this file in ${indexPath}`);
      }
    }
    const find = (name: string): TensorSource => {
      const shard = home.get(name);
      if (!shard) throw new UsageError(`${indexPath}: has no tensor ${show(name)}`);
      return shard;
    };
    return {
      path: indexPath,
      names: [...tensors.keys()],
      tensors,
      metadata: [...shards.values()][0]?.metadata ?? {},
      fileOf: (name) => find(name).path,
      read: (name, from, count) => find(name).read(name, from, count),
      readBytes: (name) => find(name).readBytes(name),
      close,
    };
  } catch (error) {
    close();
    throw error;
  }

  function openShard(file: string): TensorSource {
    if (shards.size >= MAX_SHARDS) throw new UsageError(`${indexPath}: names more than ${MAX_SHARDS} files`);
    const path = join(dirname(indexPath), file);
    if (!existsSync(path)) throw new UsageError(`${indexPath}: names ${file}, which does not exist`);
    return openSafetensors(path);
  }
}
