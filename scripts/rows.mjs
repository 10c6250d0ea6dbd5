// Reading JSON lines from standard input and writing what becomes of each, for the small scripts that stand in pipes.
import { createInterface } from 'node:readline';

/** Writes `change(row)` for every row; ends the program with one line and exit code 2 where that throws or a line is not JSON. */
export async function mapRows(name, change) {
  try {
    for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
      if (line.trim() !== '') process.stdout.write(`${JSON.stringify(change(JSON.parse(line)))}\n`);
    }
  } catch (error) {
    console.error(`${name}: ${error.message}`);
    process.exit(2);
  }
}
