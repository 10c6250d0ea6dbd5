#!/usr/bin/env node
// Is there an adapter that Dawn accepts? Prints its name and exits 0, or exits 1. Needs the npm packages only.
import { create, globals } from 'webgpu';

Object.assign(globalThis, globals);
const instance = create([]); // kept until the end: Dawn needs it as long as the adapter lives
const adapter = await instance.requestAdapter().catch(() => null);
if (adapter) console.log(adapter.info.description || adapter.info.device || adapter.info.vendor);
process.exit(adapter ? 0 : 1);
