import { loadDawn, quietly } from './device.ts';
import { prepareSoftwareDriver } from './software_driver.ts';

/** An adapter as Dawn names it: what `--device` is matched with. */
export interface AdapterName {
  backend: string;
  name: string;
}

/** No adapter is called this: Dawn's refusal lists those that there are. */
const NOBODY = 'no adapter has this name';
/** Dawn crashes when what `create` returned is collected while it is at work. */
let instance: GPU | undefined;

/** All adapters of this machine that Dawn accepts, in its order. Throws RunError where Dawn cannot be loaded. */
export async function listAdapters(): Promise<AdapterName[]> {
  const dawn = await loadDawn();
  Object.assign(globalThis, dawn.globals);
  prepareSoftwareDriver(); // its name tells how wide its vectors are
  instance = dawn.create([`adapter=${NOBODY}`]);
  try {
    await quietly(() => instance!.requestAdapter());
    return [];
  } catch (error) {
    return parseAdapters((error as Error).message);
  }
}

/** The lines ` * backend: 'vulkan', name: 'NVIDIA H200'` of Dawn's message. */
export function parseAdapters(message: string): AdapterName[] {
  const found = [...message.matchAll(/^\s*\*\s*backend:\s*'([^']*)',\s*name:\s*'(.*)'\s*$/gm)];
  return found.map(([, backend, name]) => ({ backend, name })).filter(({ backend }) => backend !== 'null');
}
