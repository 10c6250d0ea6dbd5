import type { FlatParameters } from './flat_parameters.ts';
import { saveModel, type Model } from './load.ts';
import { attachLora, saveLora } from './lora.ts';
import type { Tensor } from '../gpu/tensor.ts';

export interface TrainedSettings {
  /** 0: the weights themselves. */
  loraRank: number;
  loraAlpha: number;
  loraTargets?: string[];
  seed: number;
}

/** What a run trains of a model: its weights, or a fresh adapter on weights that stay as they are. */
export interface Trained {
  parameters: FlatParameters;
  /** The values, one flat tensor a chunk. */
  flats: Tensor[];
  /** Writes the result: a whole model, or an adapter's folder (PEFT's layout). */
  save(dir: string, tokenizer: Record<string, string | Uint8Array>, flats?: readonly Tensor[]): Promise<void>;
}

/** Whether loadModel is to make the weights trainable: not where an adapter will be trained on them. */
export const trainsWeights = ({ loraRank }: Pick<TrainedSettings, 'loraRank'>): boolean => loraRank === 0;

/** Prepares a loaded model for training as the settings ask. Throws UsageError for a target that names no matrix. */
export function trainedPart(model: Model, settings: TrainedSettings): Trained {
  if (trainsWeights(settings)) {
    return {
      parameters: model.weights,
      flats: model.weights.chunks.map((c) => c.values),
      save: (dir, tokenizer, flats) => saveModel(dir, model, tokenizer, flats),
    };
  }
  const lora = attachLora(model, { rank: settings.loraRank, alpha: settings.loraAlpha, targets: settings.loraTargets, seed: settings.seed });
  return {
    parameters: lora,
    flats: lora.chunks.map((c) => c.values),
    save: (dir, tokenizer, flats) => saveLora(dir, model, lora, model.dir, tokenizer, flats),
  };
}
