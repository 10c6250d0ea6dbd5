import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { createGzip, gzipSync } from 'node:zlib';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { collectRows, RowError, RowTooLong, streamRows } from '../../src/data/collect.ts';
import { readRows, type BadRow, type ReadOptions, type Row, type SourceDigest } from '../../src/data/jsonl.ts';
import { withFields } from '../../src/data/output_row.ts';
import { asText } from '../../src/data/rows.ts';
import { UsageError } from '../../src/errors.ts';

const folder = mkdtempSync(join(tmpdir(), 'rlhf-jsonl-'));
test.after(() => rmSync(folder, { recursive: true }));

function file(name: string, content: string | Buffer): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

async function all(sources: string[], options?: ReadOptions): Promise<(Row | BadRow)[]> {
  const rows: (Row | BadRow)[] = [];
  for await (const row of readRows(sources, options)) rows.push(row);
  return rows;
}

async function failure(work: Promise<unknown>): Promise<UsageError> {
  const error = await work.then(() => undefined, (e: unknown) => e);
  assert.instance(error, UsageError);
  return error as UsageError;
}

const values = (rows: (Row | BadRow)[]) => rows.map((row) => ('value' in row ? row.value : row.error));

test('a byte order mark, CRLF, blank lines and a missing last newline are accepted', async () => {
  const path = file('odd.jsonl', '\ufeff{"a":1}\r\n\r\n \t\n{"a":"ä🙂"}\n\n{"a":3}');
  const rows = await all([path]);
  assert.equal(values(rows), [{ a: 1 }, { a: 'ä🙂' }, { a: 3 }]);
  assert.equal(rows.map((row) => row.line), [1, 4, 6]);
  assert.ok(rows.every((row) => row.source === path));
});

test('each kind of broken line is a bad row with its number', async () => {
  const lines = [
    Buffer.from('{"a":1}'),
    Buffer.from('hello'),
    Buffer.from('[1]'),
    Buffer.from('"x"'),
    Buffer.from('null'),
    Buffer.from('{"a":1}{"a":2}'),
    Buffer.from('{"a":1'),
    Buffer.from([0x7b, 0x22, 0xc3, 0x28, 0x22, 0x7d]),
    Buffer.from('{"a":"x\0y"}'),
    Buffer.from('{"a":NaN}'),
    Buffer.from('{"a":2}'),
  ];
  const rows = await all([file('bad.jsonl', Buffer.concat(lines.flatMap((line) => [line, Buffer.from('\n')])))]);
  const errors = rows.filter((row): row is BadRow => 'error' in row);
  assert.equal(rows.map((row) => row.line), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
  assert.equal(errors.map((row) => row.line), [2, 3, 4, 5, 6, 7, 8, 9, 10]);
  const expected = [
    /^not a JSON object \(/, /but a list/, /but a text/, /but null/, /^not a JSON object \(/, /^not a JSON object \(/,
    /invalid UTF-8/, /NUL byte/, /^not a JSON object \(/,
  ];
  errors.forEach((row, i) => assert.match(row.error, expected[i]));
  assert.ok(errors.every((row) => !row.error.includes('\n')));
});

test('gzip is known by its first bytes, several members and single-byte chunks included', async () => {
  const packed = Buffer.concat([gzipSync('{"a":1}\n{"a"'), gzipSync(':2}\n')]);
  assert.equal(values(await all([file('x.jsonl.gz', packed)])), [{ a: 1 }, { a: 2 }]);
  assert.equal(values(await all([file('named-otherwise', packed)])), [{ a: 1 }, { a: 2 }]);
  const stdin = Readable.from([...packed].map((byte) => Buffer.from([byte])));
  assert.equal(values(await all(['-'], { stdin })), [{ a: 1 }, { a: 2 }]);
  assert.equal(values(await all([file('not-packed.gz', '{"a":3}\n')])), [{ a: 3 }]);
});

test('sources come in turn, each with the hash of its bytes; standard input is called -', async () => {
  const packed = gzipSync('{"a":1}\n');
  const digests: SourceDigest[] = [];
  const stdin = Readable.from([Buffer.from('{"a":2}\n{"a"'), Buffer.from(':3}\nx')]);
  const path = file('first.jsonl.gz', packed);
  const rows = await all([path, '-'], { stdin, onSource: (digest) => digests.push(digest) });
  assert.equal(rows.map((row) => [row.source, row.line]), [[path, 1], ['-', 1], ['-', 2], ['-', 3]]);
  const sha256 = (bytes: Buffer | string) => createHash('sha256').update(bytes).digest('hex');
  const typed = '{"a":2}\n{"a":3}\nx';
  assert.equal(digests, [
    { source: path, sha256: sha256(packed), bytes: packed.length, rows: 1 },
    { source: '-', sha256: sha256(typed), bytes: typed.length, rows: 3 },
  ]);
});

test('a plain text file is one document, where that is wanted', async () => {
  const path = file('book.txt', '\ufeffCall me Ishmael.\r\n\r\nSome years ago\n');
  const [row] = await all([path], { plainText: true });
  assert.equal((row as Row).value, { text: 'Call me Ishmael.\r\n\r\nSome years ago\n' });
  assert.match((await failure(all([path]))).message, /book\.txt: plain text is for pretraining/);
  const broken = file('broken.txt', Buffer.from([0x61, 0x0a, 0x62, 0x0a, 0xff, 0x0a]));
  assert.equal(await all([broken], { plainText: true }), [{ source: broken, line: 3, error: 'invalid UTF-8' }]);
});

test('what cannot be read is named', async () => {
  const missing = join(folder, 'missing.jsonl');
  assert.is((await failure(all([missing]))).message, `${missing}: no such file`);
  assert.match((await failure(all([folder]))).message, /is a folder/);
  for (const content of ['', '\n \n', '\ufeff', gzipSync('')]) {
    assert.match((await failure(all([file('empty.jsonl', content)]))).message, /empty\.jsonl: no rows/);
  }
  assert.match((await failure(all(['-'], { stdin: Readable.from([]) }))).message, /^-: no rows/);
  assert.match((await failure(all(['-', '-']))).message, /twice/);
  const cut = gzipSync('{"a":1}\n'.repeat(1000)).subarray(0, 40);
  assert.match((await failure(all([file('cut.gz', cut)]))).message, /cut\.gz: broken gzip data/);
  // A missing file is found before anything is read of the ones before it.
  const seen: unknown[] = [];
  const reading = (async () => {
    for await (const row of readRows([file('good.jsonl', '{"a":1}'), missing])) seen.push(row);
  })();
  await failure(reading);
  assert.is(seen.length, 0);
});

/** A gzip file of many megabytes in no memory: one chunk, again and again. */
async function bomb(name: string, chunk: Buffer, times: number): Promise<string> {
  const parts: Buffer[] = [];
  const packed = Readable.from(Array<Buffer>(times).fill(chunk)).pipe(createGzip());
  for await (const part of packed) parts.push(part as Buffer);
  return file(name, Buffer.concat(parts));
}

test('an endless line and a gzip bomb end soon, in bounded memory', async () => {
  const zeros = await bomb('zeros.gz', Buffer.alloc(2 ** 20), 80);
  const newlines = await bomb('newlines.gz', Buffer.alloc(2 ** 20, 10), 80);
  const started = performance.now();
  assert.match((await failure(all([zeros]))).message, /zeros\.gz:1: a line of more than 64 MiB/);
  assert.match((await failure(all([newlines]))).message, /newlines\.gz:\d+: nothing but blank lines for 64 MiB/);
  const endless = Readable.from((function* () {
    for (;;) yield Buffer.alloc(2 ** 20, 97);
  })());
  assert.match((await failure(all(['-'], { stdin: endless }))).message, /^-:1: a line of more than 64 MiB/);
  assert.ok(performance.now() - started < 3000);
  const rows = await bomb('rows.gz', Buffer.from(`{"text":"${'a'.repeat(2 ** 20)}"}\n`), 260);
  const drain = async () => {
    for await (const row of readRows([rows])) assert.is(row.line > 0, true);
  };
  assert.match((await failure(drain())).message, /rows\.gz: expands more than 200-fold/);
});

test('training lists the first ten bad rows, or drops them', async () => {
  const lines = Array.from({ length: 14 }, (_, i) => (i % 14 === 3 ? '{"text":"good"}' : '{"text":1}'));
  const path = file('many.jsonl', lines.join('\n'));
  const error = await failure(collectRows([path], asText, { skipBadRows: false }));
  const listed = error.message.split('\n');
  assert.is(listed.length, 11);
  assert.is(listed[0], `${path}:1: "text" is a number, expected a text`);
  assert.is(listed[9], `${path}:11: "text" is a number, expected a text`);
  assert.is(listed[10], '… and 3 more bad rows');
  assert.match(error.hint!, /--skip-bad-rows/);
  assert.is((await failure(collectRows([path], asText))).hint, undefined, 'a command without that option does not name it');
  const warnings: string[] = [];
  const kept = await collectRows([path], asText, { skipBadRows: true, warn: (line) => warnings.push(line) });
  assert.equal(kept.rows, ['good']);
  assert.is(kept.bad, 13);
  assert.equal(warnings, ['dropped 13 rows that could not be used (--skip-bad-rows)']);
  assert.is(kept.sources[0].rows, 14);
  const none = file('none.jsonl', '{"text":1}');
  assert.match((await failure(collectRows([none], asText, { skipBadRows: true }))).message, /no usable rows/);
});

test('rows too long are dropped only where that is asked for', async () => {
  const path = file('long.jsonl', '{"text":"a"}\n{"text":"too long"}\n');
  const read = (value: Record<string, unknown>) => {
    if ((value.text as string).length > 3) throw new RowTooLong('8 tokens, the context has 3');
    return value.text;
  };
  const error = await failure(collectRows([path], read));
  assert.is(error.message, `${path}:2: 8 tokens, the context has 3`);
  assert.match(error.hint!, /--truncate .* --skip-long/);
  const kept = await collectRows([path], read, { skipLong: true });
  assert.equal([kept.rows, kept.long, kept.bad], [['a'], 1, 0]);
});

test('streaming gives the rows before the first bad one, then fails', async () => {
  const stdin = Readable.from([Buffer.from('{"text":"a"}\n{"text":"b"}\n{"txt":1}\n{"text":"c"}\n')]);
  const seen: string[] = [];
  const work = (async () => {
    for await (const { item } of streamRows(['-'], asText, { stdin })) seen.push(item);
  })();
  assert.is((await failure(work)).message, '-:3: "text" is missing');
  assert.equal(seen, ['a', 'b']);
});

test('a reader that fails otherwise is not taken for a bad row', async () => {
  const broken = () => {
    throw new TypeError('a bug');
  };
  const error = await collectRows([file('one.jsonl', '{"a":1}')], broken).catch((e: unknown) => e);
  assert.instance(error, TypeError);
  assert.not.instance(error, RowError);
});

test('fields pass through character for character', () => {
  const text = '{ "id": 12345678901234567890,"__proto__":{"a":[1e400, "}\\","]} , "reward":[1], "toString":-0 }';
  const out = withFields({ text }, { reward: 0.5, sum: [1, 2] });
  const kept = '"id": 12345678901234567890,"__proto__":{"a":[1e400, "}\\","]} ';
  assert.is(out, `{${kept},"reward":0.5,"toString":-0 ,"sum":[1,2]}`);
  assert.is(withFields({ text: '{}' }, { a: 1 }), '{"a":1}');
  assert.is(withFields({ text: '{"completion":"x","p":1}' }, { completion: undefined, completions: ['y'] }),
    '{"p":1,"completions":["y"]}');
  assert.is(withFields({ text: '{"a":1,"\\u0061":2,"b":3}' }, { a: 4 }), '{"a":4,"b":3}');
});

/** Broken bytes give rows and bad rows, or a UsageError: nothing else, and never another row than JSON has. */
test('fuzz: mutated files', async () => {
  const lines = ['{"text":"Zoë said 🙂","n":[1,2,{"k":null}]}\r\n', '{"text":"b\\u00e9"}', '{"text":"c"}'];
  const source = Buffer.from(`\ufeff${lines.join('\n')}`);
  const odd = [0, 10, 13, 31, 34, 92, 123, 125, 255];
  let state = 11;
  const random = (n: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
  for (let i = 0; i < Number(process.env.RLHF_FUZZ_CASES ?? 400); i++) {
    let bytes = Buffer.from(i % 3 === 0 ? gzipSync(source) : source);
    for (let change = random(4); change >= 0; change--) {
      const at = random(bytes.length + 1);
      const junk = Buffer.from(Array.from({ length: random(4) }, () => odd[random(odd.length)]));
      bytes = Buffer.concat([bytes.subarray(0, at), junk, bytes.subarray(Math.min(bytes.length, at + random(6)))]);
    }
    const cut = random(bytes.length + 1);
    const stdin = Readable.from([bytes.subarray(0, cut), bytes.subarray(cut)].filter((part) => part.length > 0));
    try {
      for (const row of await all(['-'], { stdin })) {
        if ('value' in row) assert.equal(JSON.parse(withFields(row, { new: 1 })), { ...row.value, new: 1 });
        else assert.not.match(row.error, /\n/);
      }
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      assert.not.match(error.message, /\n/);
    }
  }
});

test.run();
