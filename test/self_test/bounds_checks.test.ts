import { test } from 'uvu';
import { closeAfterTests } from '../gpu/device.ts';
import { ofGpus, sameWithoutBoundsChecks } from './bounds.ts';

test.after(closeAfterTests);

test('no kernel leans on Dawn’s bounds checks', () => sameWithoutBoundsChecks(({ name }) => !ofGpus(name))); // gpu_products.test.ts has the others

test.run();
