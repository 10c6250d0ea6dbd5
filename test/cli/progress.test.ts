import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { duration, Progress } from '../../src/progress.ts';

/** A progress display with a clock that the test moves. */
function display(isTTY: boolean, { quiet = false, color = false, columns = 80 } = {}) {
  let [text, time] = ['', 0];
  const screen = { isTTY, columns, write: (more: string) => (text += more) };
  const progress = new Progress({ quiet, color, screen, now: () => time });
  return { progress, pass: (ms: number) => (time += ms), text: () => text };
}

test('off a terminal: a plain line now and then, and one at the end', () => {
  const { progress, pass, text } = display(false);
  progress.start('training', { total: 100 });
  for (let step = 1; step <= 100; step++) {
    pass(1000);
    progress.update({ done: step, fields: { loss: 2 / step } });
  }
  progress.end();
  const lines = text().trimEnd().split('\n');
  assert.is(lines.length, 8); // at 2 s, then every 15 s, and the end
  assert.is(lines[0], 'training: 2/100 steps  1 steps/s  1m 38s left  loss 1');
  assert.is(lines.at(-1), 'training: 100/100 steps  1 steps/s  took 1m 40s  loss 0.02');
  assert.not.match(text(), /[\r\u001b]/);
});

test('on a terminal: one live line within its width', () => {
  const { progress, pass, text } = display(true, { columns: 72 });
  progress.start('training', { total: 10 });
  for (let step = 1; step <= 10; step++) {
    pass(500);
    progress.update({ done: step, fields: { loss: 1.23456, 'tokens/s': 1234 } });
  }
  const frames = text().split('\r\u001b[K').slice(1);
  assert.is(frames.length, 10);
  assert.ok(frames.every((frame) => frame.length < 72));
  assert.match(frames[4]!, /^training ━{10}─{10} 5\/10 steps/);
  assert.not.match(frames.join(''), /\u001b/); // NO_COLOR
  progress.end();
  assert.match(text(), /took 5.0s[^\n]*\n$/);
});

test('a resumed phase counts the rate of this run alone', () => {
  const { progress, pass, text } = display(false);
  progress.start('training', { total: 1000, from: 900 });
  pass(10000);
  progress.update({ done: 920 });
  assert.is(text(), 'training: 920/1000 steps  2 steps/s  40.0s left\n');
});

test('--quiet shows nothing', () => {
  for (const isTTY of [true, false]) {
    const { progress, pass, text } = display(isTTY, { quiet: true });
    progress.start('training');
    pass(60000);
    progress.update({ done: 1 });
    progress.end();
    assert.is(text(), '');
  }
});

test('durations', () => {
  assert.equal(
    [duration(4.21), duration(59.99), duration(185), duration(3725)],
    ['4.2s', '1m 00s', '3m 05s', '1h 02m'],
  );
});

test.run();
