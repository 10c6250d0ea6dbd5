import { createInterface } from 'node:readline/promises';
import type { Readable, Writable } from 'node:stream';
import { visible } from '../text/visible.ts';
import type { Session } from './session.ts';

const HELP = 'best first, as in 2 > 1 = 3 (= is a tie); s puts it off, q ends';

/** Ranks in the terminal until all is ranked, the input ends, or the labeler quits. */
export async function rankInTerminal(session: Session, input: Readable, output: Writable): Promise<void> {
  const lines = createInterface({ input, output, terminal: false });
  const answers = lines[Symbol.asyncIterator]();
  try {
    for (let task = session.next(); task; task = session.next()) {
      const listed = task.shown.map((text, i) => `${String(i + 1).padStart(3)}  ${visible(text).replace(/\n/g, '\n     ')}`);
      const heading = `\n[${session.done + 1}/${session.total}] ${visible(task.prompt.trimEnd())}\n`;
      output.write(`${heading}\n${listed.join('\n\n')}\n\n`);
      for (let settled = false; !settled; ) {
        output.write(`${HELP}: `);
        const { value, done } = await answers.next();
        const answer = done ? 'q' : value.trim().toLowerCase();
        if (answer === 'q') return;
        const ranks = parseOrder(answer, task.shown.length);
        settled = answer === 's' || typeof ranks !== 'string';
        if (answer === 's') session.skip(task);
        else if (typeof ranks === 'string') output.write(`${ranks}\n`);
        else session.rank(task, ranks);
      }
    }
  } finally {
    lines.close();
  }
}

/** `2 > 1 = 3` → ranks of the answers in order, [2, 1, 2]; or what is wrong with it. */
export function parseOrder(text: string, count: number): number[] | string {
  const ranks = Array<number>(count).fill(0);
  for (const [level, group] of text.split('>').entries()) {
    for (const word of group.split('=').map((each) => each.trim())) {
      const index = /^\d+$/.test(word) ? Number(word) - 1 : -1;
      if (index < 0 || index >= count) return word === '' ? 'a number is missing' : `no answer ${word}`;
      if (ranks[index] !== 0) return `${word} stands there twice`;
      ranks[index] = level + 1;
    }
  }
  const missing = ranks.indexOf(0);
  return missing < 0 ? ranks : `${missing + 1} is missing`;
}
