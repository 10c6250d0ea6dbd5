import { getAsset, getRawAsset } from 'node:sea';
import { openAddon, type AddonFile } from './addon.ts';

/** What scripts/build-binary.mjs puts beside the addon's files. */
interface AddonList {
  files: string[];
  hash: string;
}

// src/gpu/device.ts asks for this before it looks for the npm package.
Object.assign(globalThis, {
  rlhfDawn: async (): Promise<unknown> => {
    const { files, hash } = JSON.parse(getAsset('addon.json', 'utf8')) as AddonList;
    const read = (name: string): AddonFile => ({ name, bytes: new Uint8Array(getRawAsset(name) as ArrayBuffer) });
    return openAddon(files.map(read), hash);
  },
});
