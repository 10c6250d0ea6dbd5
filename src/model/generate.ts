import type { SamplerSettings } from '../gpu/ops/sampler.ts';
import { mostThatFit, planMemory } from '../train/memory.ts';
import type { Decoder } from './decoder.ts';
import { Generator, type GeneratorOptions, type Request, type Response } from './generator.ts';

/**
 * Continues a stream of requests with caches as long as they need: a request that is longer than those before waits until
 * they have ended and gets larger caches. Responses come in the order in which they end; none depends on the others. Fewer are decoded side by
 * side where `memory` (bytes) or the device has no room for `slots`; with `memory` the caches are as long as any request may need from the start.
 */
export async function* generate(decoder: Decoder, requests: AsyncIterable<Request> | Iterable<Request>, settings: SamplerSettings,
  { memory, ...options }: Omit<GeneratorOptions, 'length'> & { memory?: number }): AsyncGenerator<Response> {
  const source = (async function* (): AsyncGenerator<Request> { yield* requests; })();
  let next = await source.next();
  while (!next.done) {
    const need = (request: Request): number => Math.min(decoder.config.context, request.prompt.length + request.maxNewTokens);
    let length = 64;
    if (memory !== undefined) length = Array.isArray(requests) ? (requests as Request[]).reduce((most, request) => Math.max(most, need(request)), 0) : decoder.config.context;
    while (length < need(next.value)) length *= 2;
    const make = (slots: number): Generator => new Generator(decoder, { ...options, slots, length });
    const longest = new Int32Array(Math.min(length, decoder.config.context) - 1);
    const slots = mostThatFit(memory, options.slots, 1, (most) => planMemory(() => make(most), (made) => made.prepare(Array<Int32Array>(most).fill(longest)), []));
    const generator = make(slots);
    const fitting = async function* (): AsyncGenerator<Request> {
      for (; !next.done && need(next.value) <= length; next = await source.next()) yield next.value;
    };
    try {
      yield* generator.run(fitting(), settings);
    } finally {
      generator.dispose();
    }
  }
}
