import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { stdin, stderr, stdout } from 'node:process';
import type { RunContext } from '../context.ts';
import { RowError } from '../data/collect.ts';
import { encodePrompt } from '../data/encode.ts';
import { generate } from '../model/generate.ts';
import { loadModel, loadTokenizer } from '../model/load.ts';
import type { ChatSettings } from '../options.ts';
import type { Message } from '../text/chat_template.ts';
import { openSession } from '../train/session.ts';
import { stopAt } from './sample.ts';

/**
 * Talks to a model, a line a turn: with the model's chat template the conversation is remembered, without one each line is a
 * prompt by itself. `/reset` forgets, `/exit` and the end of input leave.
 */
export async function chat(settings: ChatSettings, context: RunContext): Promise<void> {
  const tokenizer = await loadTokenizer(settings.model!);
  if (settings.chatTemplate) tokenizer.setChatTemplate(readFileSync(settings.chatTemplate, 'utf8'));
  await openSession(settings, context);
  const model = loadModel(settings.model!, { kind: 'lm' });
  const start: Message[] = settings.system ? [{ role: 'system', content: settings.system }] : [];
  let messages = [...start];
  const interactive = stdin.isTTY === true;
  if (interactive) context.log(tokenizer.hasChatTemplate ? '/reset forgets the conversation, /exit leaves' : 'no chat template: each line is a prompt; /exit leaves');
  const lines = createInterface({ input: stdin, output: interactive ? stderr : undefined, prompt: '> ', terminal: interactive });
  const ask = (): void => {
    if (interactive) lines.prompt();
  };
  let turn = 0;
  ask();
  for await (const line of lines) {
    if (line.trim() === '/exit') break;
    if (line.trim() === '/reset') messages = [...start];
    if (line.trim() === '' || line.trim() === '/reset') {
      ask();
      continue;
    }
    const asked: Message[] = [...messages, { role: 'user', content: line }];
    try {
      const prompt = encodePrompt(tokenizer, tokenizer.hasChatTemplate ? asked : line);
      const room = model.config.context - prompt.length;
      if (room < 1) throw new RowError(`the conversation has ${prompt.length} tokens, the context ${model.config.context}: /reset forgets it`);
      const answer = await reply(prompt, Math.min(room, settings.maxNewTokens), turn++);
      messages = [...asked, { role: 'assistant', content: answer }];
    } catch (error) {
      if (!(error instanceof RowError)) throw error;
      context.warn(error.message);
    }
    ask();
  }
  lines.close();

  /** Writes the answer as it comes and returns its text. */
  async function reply(prompt: Int32Array, maxNewTokens: number, row: number): Promise<string> {
    const stream = tokenizer.stream();
    let text = '';
    let shown = 0;
    const show = (ids: readonly number[]): void => {
      let piece = '';
      for (; shown < ids.length; shown++) if (!tokenizer.eosIds.has(ids[shown])) piece += stream.push(ids[shown]);
      text += piece;
      stdout.write(piece);
    };
    const draw = { temperature: settings.greedy ? 0 : settings.temperature, topK: settings.topK, topP: settings.topP, seed: settings.seed, iteration: 0 };
    const cut = settings.stop!.length > 0 ? stopAt(tokenizer, settings.stop!) : undefined;
    const requests = [{ prompt, row, sample: 0, maxNewTokens }];
    for await (const { ids } of generate(model.decoder, requests, draw, { slots: 1, ends: [...tokenizer.eosIds], cut, watch: (_, seen) => show(seen) })) show(ids);
    const rest = stream.end();
    stdout.write(`${rest}\n`);
    return (text + rest).trim();
  }
}
