// What PEFT's adapter_config.json says, as far as it changes the numbers.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { UsageError } from '../errors.ts';
import type { Head } from '../model/config.ts';
import { show } from './json.ts';

type Json = Record<string, unknown>;

/** These start from weights taken out of the base model, which adapter_model.safetensors alone does not tell. */
const CHANGES_BASE = /^(pissa|olora|corda|loftq|lora_ga)/;

/** What the update of each matrix is computed with, and what it is an update of. */
export interface PeftConfig {
  rank: number;
  /** alpha of a module, by its name in the base model. */
  alphaOf: (module: string) => number;
  /** Scaled by alpha / √rank instead of alpha / rank. */
  rootScaled: boolean;
  /** What task_type says; absent where it says nothing. */
  head: Head | undefined;
  /** The base model's folder. */
  base: string;
}

/**
 * Reads adapter_config.json.
 * @param file its path, which messages name; `dir` the adapter's folder
 * @throws UsageError naming the file and the key that is malformed or not supported
 */
export function readPeftConfig(json: Json, file: string, dir: string): PeftConfig {
  const fail = (key: string, what: string) => new UsageError(`${file}: ${key}: ${what}`);
  const refuse = (key: string, plain: (value: unknown) => boolean): void => {
    const value = json[key];
    if (value !== undefined && value !== null && !plain(value)) throw fail(key, `${show(value)} is not supported`);
  };
  const isFalse = (value: unknown): boolean => value === false;
  if (json['peft_type'] !== 'LORA') throw fail('peft_type', `${show(json['peft_type'])} is not supported (supported: LORA)`);
  const positive = (key: string): number => {
    const value = json[key];
    if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0) {
      throw fail(key, `must be a positive number, but is ${show(value)}`);
    }
    return value;
  };
  refuse('bias', (value) => value === 'none' || value === 'all' || value === 'lora_only');
  refuse('use_dora', isFalse);
  refuse('lora_bias', isFalse);
  refuse('use_qalora', isFalse);
  refuse('use_bdlora', isFalse);
  // Other forward passes, or another base.
  for (const key of ['layer_replication', 'alora_invocation_tokens', 'arrow_config', 'kasa_config']) refuse(key, () => false);
  refuse('init_lora_weights', (value) => typeof value === 'boolean' || (typeof value === 'string' && !CHANGES_BASE.test(value)));
  refuse('use_rslora', (value) => typeof value === 'boolean');
  const task = json['task_type'];
  if (task !== undefined && task !== null && task !== 'CAUSAL_LM' && task !== 'SEQ_CLS') {
    throw fail('task_type', `${show(task)} is not supported (supported: CAUSAL_LM, SEQ_CLS)`);
  }
  const head: Head | undefined = task === 'CAUSAL_LM' ? 'lm' : task === 'SEQ_CLS' ? 'reward' : undefined;
  const rank = positive('r');
  return { rank, alphaOf: readAlphas(json, positive('lora_alpha'), fail), rootScaled: json['use_rslora'] === true, head, base: findBase(json, file, dir) };
}

/** alpha of a module by its name in the base model: alpha_pattern's first pattern that its end matches, else lora_alpha. */
function readAlphas(json: Json, alpha: number, fail: (key: string, what: string) => UsageError): (module: string) => number {
  const given = json['alpha_pattern'] ?? {};
  if (typeof given !== 'object' || Array.isArray(given)) throw fail('alpha_pattern', `must be an object, but is ${show(given)}`);
  const patterns = Object.entries(given as Json).map(([key, value]) => {
    if (typeof value !== 'number' || !(value > 0)) throw fail('alpha_pattern', `${show(key)} must have a positive number, but has ${show(value)}`);
    try {
      return { pattern: new RegExp(`^(.*\\.)?(${key})$`), value };
    } catch {
      throw fail('alpha_pattern', `${show(key)} is not supported as a pattern`);
    }
  });
  return (module) => patterns.find(({ pattern }) => pattern.test(module))?.value ?? alpha;
}

/** The base folder as it is named, from the current folder or else from the adapter's. */
function findBase(json: Json, file: string, dir: string): string {
  const name = json['base_model_name_or_path'];
  if (typeof name !== 'string' || name === '') {
    throw new UsageError(`${file}: base_model_name_or_path: must name a model folder, but is ${show(name)}`);
  }
  const found = [name, join(dir, name)].find((path) => existsSync(path));
  if (found === undefined) {
    throw new UsageError(
      `${file}: base_model_name_or_path: no such folder: ${show(name)}`,
      'write the path of the base model there; none is downloaded',
    );
  }
  return found;
}
