// Llama 3's rotary scaling as llama.cpp keeps it: not its four numbers, but by what they divide each frequency.
import type { RopeScaling } from '../model/config.ts';
import { rotaryFrequencies } from '../model/rotary.ts';

export type Llama3Scaling = Extract<RopeScaling, { kind: 'llama3' }>;

/** The tensor with a divisor for each rotary frequency [D/2]. */
export const ROTARY_FACTORS = 'rope_freqs.weight';

/** Both published forms (Llama 3.1 and 3.2) have these; a file whose factors leave a choice is read with them. */
const [LOW, HIGH] = [1, 4];
/** Relative; the factors are float32, and the numbers found from them are rounded. */
const TOLERANCE = 1e-5;

const wavelength = (i: number, headDim: number, theta: number): number => 2 * Math.PI * theta ** ((2 * i) / headDim);

/** By what Llama 3's scaling divides each rotary frequency [D/2]: 1 for short waves, the factor for long ones. */
export function rotaryFactors(headDim: number, theta: number, scaling: Llama3Scaling): Float32Array {
  const scaled = rotaryFrequencies({ headDim, ropeTheta: theta, ropeScaling: scaling });
  return Float32Array.from(rotaryFrequencies({ headDim, ropeTheta: theta }), (frequency, i) => frequency / scaled[i]!);
}

/**
 * The scaling that gives these factors, or undefined where none of Llama 3's form does. In between, 1/f is a line over
 * 1/wavelength: two such factors tell original context and high_freq_factor, with low_freq_factor 1 (only their ratios to
 * the context matter).
 */
export function llama3Scaling(factors: Float32Array, headDim: number, theta: number): Llama3Scaling | undefined {
  const factor = Number(factors.reduce((a, b) => Math.max(a, b), 1).toPrecision(7));
  if (factors.length !== headDim / 2 || factor === 1) return undefined;
  const waves = Array.from(factors, (_, i) => wavelength(i, headDim, theta));
  const between = waves.flatMap((wave, i) =>
    factors[i]! > 1 && factors[i]! < factor ? [{ x: 1 / wave, smooth: (1 / factors[i]! - 1 / factor) / (1 - 1 / factor) }] : [],
  );
  let [high, context] = [HIGH, 0];
  if (between.length > 1) {
    const [first, last] = [between[0]!, between.at(-1)!];
    const slope = (first.smooth - last.smooth) / (first.x - last.x);
    high = Number((1 - 1 / (first.smooth - slope * first.x)).toPrecision(5));
    context = slope * (high - LOW);
  } else if (between.length === 1) {
    context = (LOW + between[0]!.smooth * (HIGH - LOW)) / between[0]!.x;
  } else {
    // Anything between the last wave that is kept and the first that is divided.
    const long = waves[factors.findIndex((f) => f > 1)]!;
    const short = waves[factors.lastIndexOf(1)] ?? 1;
    context = Math.sqrt(long * short * (HIGH / LOW));
  }
  const found: Llama3Scaling = {
    kind: 'llama3', factor, lowFreqFactor: LOW, highFreqFactor: high, originalContext: Math.round(context),
  };
  if (!(high > LOW) || !(found.originalContext >= 1)) return undefined;
  const again = rotaryFactors(headDim, theta, found);
  return again.every((f, i) => Math.abs(f - factors[i]!) <= TOLERANCE * f) ? found : undefined;
}
