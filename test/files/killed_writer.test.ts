import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { clearLeftovers, writeFileAtomic, writeFolderAtomic } from '../../src/files/atomic.ts';
import { openModel, writeModel } from '../../src/files/model_folder.ts';
import { seeded } from './mutate.ts';
import { MODELS, temporaryFolder } from './temporary.ts';

/** What the child process does until it is killed: replaces a model, a folder and a file by versions of themselves. */
async function writeForever(dir: string): Promise<never> {
  const model = openModel(join(MODELS, 'qwen2-tiny'));
  const { config, head } = model;
  for (let n = 0; ; n++) {
    const tensors = model.plan.map(({ name, shape }) => ({ name, shape, data: model.read(name).fill(n) }));
    await writeModel(dir, { config, head, tensors });
    await writeFolderAtomic(join(dir, 'state'), async (aside) => {
      for (const part of ['a', 'b']) writeFileSync(join(aside, part), String(n));
    });
    await writeFileAtomic(join(dir, 'file.json'), JSON.stringify({ n, text: 'x'.repeat(5000) }));
  }
}

const KILLS = Number(process.env['RLHF_KILLS'] ?? 8);
const child = process.env['RLHF_WRITE_FOREVER'];
if (child) await writeForever(child);

test(`a writer killed ${KILLS} times leaves whole models, folders and files`, async () => {
  const dir = temporaryFolder();
  const random = seeded(9);
  let checked = 0;
  for (let kill = 0; kill < KILLS; kill++) {
    const env = { ...process.env, RLHF_WRITE_FOREVER: dir };
    const writer = spawn(process.execPath, [process.argv[1]!], { env, stdio: 'inherit' });
    for (let n = 0; !existsSync(join(dir, 'file.json')) && n < 500; n++) await wait(20);
    await wait(150 + random(200));
    writer.kill('SIGKILL');
    await new Promise((resolve) => writer.once('close', resolve));

    await clearLeftovers(dir);
    const model = openModel(dir);
    const first = model.read(model.plan[0]!.name)[0];
    for (const { name } of model.plan)
      assert.ok(
        model.read(name).every((v) => v === first),
        `${name} of one version`,
      );
    model.close();
    const parts = ['a', 'b'].map((part) => readFileSync(join(dir, 'state', part), 'utf8'));
    assert.is(parts[0], parts[1]);
    assert.is((JSON.parse(readFileSync(join(dir, 'file.json'), 'utf8')) as { text: string }).text.length, 5000);
    assert.is(readdirSync(dir).filter((name) => /\.(tmp|old)-/.test(name)).length, 0);
    checked++;
  }
  assert.is(checked, KILLS);
});

test.run();
