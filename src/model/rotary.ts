import type { ModelConfig, RopeScaling } from './config.ts';

/** What rotary positions depend on. */
export type Rotary = Pick<ModelConfig, 'headDim' | 'ropeTheta' | 'ropeScaling'>;

/** [D/2]: the angles by which a token is turned from the one before it, with the model's scaling. */
export function rotaryFrequencies({ headDim, ropeTheta, ropeScaling }: Rotary): number[] {
  return Array.from({ length: headDim / 2 }, (_, i) => {
    const f = ropeTheta ** ((-2 * i) / headDim);
    if (!ropeScaling || ropeScaling.kind === 'dynamic') return f;
    if (ropeScaling.kind === 'linear') return f / ropeScaling.factor;
    if (ropeScaling.kind === 'yarn') {
      const stretched = ramp(i, headDim, ropeTheta, ropeScaling);
      return (stretched * f) / ropeScaling.factor + (1 - stretched) * f;
    }
    // Llama 3: long waves are stretched, short ones kept, those between blended.
    const { factor, lowFreqFactor, highFreqFactor, originalContext } = ropeScaling;
    const wavelength = (2 * Math.PI) / f;
    if (wavelength < originalContext / highFreqFactor) return f;
    if (wavelength > originalContext / lowFreqFactor) return f / factor;
    const smooth = (originalContext / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
    return ((1 - smooth) * f) / factor + smooth * f;
  });
}

/** [context, D]: cosines of the D/2 angles of each position, then their sines, computed in double precision. */
export function rotaryTable(config: ModelConfig): Float32Array {
  const { context, headDim, ropeScaling } = config;
  const half = headDim / 2;
  const frequencies = rotaryFrequencies(config);
  const scale = ropeScaling?.kind === 'yarn' ? ropeScaling.attention : 1;
  const table = new Float32Array(context * headDim);
  for (let t = 0; t < context; t++) {
    frequencies.forEach((f, i) => {
      table[t * headDim + i] = scale * Math.cos(t * f);
      table[t * headDim + half + i] = scale * Math.sin(t * f);
    });
  }
  return table;
}

/**
 * How much of YaRN's stretching frequency i gets: 0 for those that turn more than betaFast times over the original context, 1
 * for those that turn less than betaSlow times, a line in between.
 */
function ramp(i: number, dim: number, theta: number, yarn: Extract<RopeScaling, { kind: 'yarn' }>): number {
  const turnsAt = (turns: number): number => (dim * Math.log(yarn.originalContext / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const [first, last] = [turnsAt(yarn.betaFast), turnsAt(yarn.betaSlow)];
  const low = Math.max(yarn.truncate ? Math.floor(first) : first, 0);
  const high = Math.min(yarn.truncate ? Math.ceil(last) : last, dim - 1);
  return Math.min(Math.max((i - low) / (high === low ? 0.001 : high - low), 0), 1);
}
