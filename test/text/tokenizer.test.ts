import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Tokenizer } from '../../src/text/tokenizer.ts';

const fixtures = join(process.env.RLHF_ROOT!, 'test/fixtures/text');
const read = (name: string) => JSON.parse(readFileSync(join(fixtures, name), 'utf8'));
interface Case {
  text: string;
  ids: number[];
  decoded?: string;
}

test('stories260K: ids and texts of 223 strings', async () => {
  const tokenizer = await Tokenizer.load(join(fixtures, 'stories260K'));
  assert.is(tokenizer.vocabSize, 512);
  assert.is(tokenizer.addsBos, true);
  for (const { text, ids, decoded } of read('stories260K_encode.json').cases as Case[]) {
    assert.equal(tokenizer.encodePrompt(text), ids, JSON.stringify(text));
    assert.is(tokenizer.decode(ids, { skipSpecialTokens: true }), decoded);
  }
});

test.run();
