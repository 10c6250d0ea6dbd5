import { stderr, stdin, stdout } from 'node:process';
import { createInterface, type Interface } from 'node:readline';
import type { RunContext } from '../context.ts';
import { RowError } from '../data/collect.ts';
import { encodePrompt } from '../data/encode.ts';
import { Interrupted, UsageError } from '../errors.ts';
import { generate } from '../model/generate.ts';
import { loadModel, loadTokenizer, type Model } from '../model/load.ts';
import type { ChatSettings } from '../options.ts';
import type { Message } from '../text/chat_template.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { visible } from '../text/visible.ts';
import { openSession } from '../train/session.ts';
import { stopAt } from './sample.ts';
import { StopFilter } from './stop_filter.ts';

const HELP = 'a line that ends with \\ goes on in the next; Ctrl-C stops an answer; /reset forgets, /exit leaves';

/**
 * Talks to a model, a line a turn: with the model's chat template the conversation is remembered, without one each line is a
 * prompt by itself. On a terminal answers appear as they are drawn; with input from a pipe each is one line of output.
 */
export async function chat(settings: ChatSettings, context: RunContext): Promise<void> {
  const tokenizer = await loadTokenizer(settings.model!, settings.chatTemplate);
  if (settings.system && !tokenizer.hasChatTemplate) {
    throw new UsageError('--system: the model has no chat template', 'give one with --chat-template FILE');
  }
  await openSession(settings, context);
  const model = loadModel(settings.model!, { dtype: settings.dtype, kind: 'lm' });
  const conversation = new Conversation(tokenizer, model.config.context, settings);
  const interactive = stdin.isTTY === true;
  if (interactive) context.log(tokenizer.hasChatTemplate ? HELP : `no chat template: each line is a prompt; ${HELP}`);

  const terminal = createInterface({ input: stdin, output: interactive ? stderr : undefined, prompt: '> ', terminal: interactive });
  let answering = false;
  let stopped = false;
  // On a terminal Ctrl-C is a key that readline sees: it stops the answer, and without one leaves.
  terminal.on('SIGINT', () => {
    stopped = true;
    if (!answering) terminal.close();
  });
  let turn = 0;
  for await (const message of messages(terminal, interactive)) {
    if (message === '/exit') break;
    if (message === '/reset') conversation.reset();
    else {
      answering = true;
      stopped = false;
      try {
        const prompt = conversation.ask(message, (line) => context.log(line));
        const show = interactive ? (piece: string): void => void stdout.write(visible(piece)) : undefined;
        const answer = await reply(model, tokenizer, prompt, turn++, settings, () => stopped || context.signal.aborted, show);
        if (context.signal.aborted) throw new Interrupted();
        conversation.answer(answer);
        await context.stdout.write(interactive ? '' : answer.replace(/\s*[\r\n]+\s*/g, ' ').trim());
      } catch (error) {
        if (!(error instanceof RowError)) throw error;
        context.warn(error.message);
        if (!interactive) await context.stdout.write('');
      }
      answering = false;
    }
  }
  terminal.close();
}

/** Messages as they are typed: a line each, or several joined by a backslash at the end; blank ones are passed over. */
async function* messages(terminal: Interface, interactive: boolean): AsyncGenerator<string> {
  let begun = '';
  const ask = (): void => {
    if (!interactive) return;
    terminal.setPrompt(begun === '' ? '> ' : '… ');
    terminal.prompt();
  };
  ask();
  for await (const line of terminal) {
    if (line.endsWith('\\')) begun += `${line.slice(0, -1)}\n`;
    else {
      const message = begun + line;
      begun = '';
      const command = message.trim();
      if (command !== '') yield command === '/exit' || command === '/reset' ? command : message;
    }
    ask();
  }
  if (begun.trim() !== '') yield begun;
}

/** What has been said, and the token ids that ask for the next answer. */
export class Conversation {
  private said: Message[] = [];
  private readonly system: Message[];

  constructor(private readonly tokenizer: Tokenizer, private readonly context: number, private readonly settings: { system?: string; maxNewTokens: number }) {
    this.system = settings.system ? [{ role: 'system', content: settings.system }] : [];
  }

  reset(): void {
    this.said = [];
  }

  /**
   * Adds a message and returns the ids of the whole prompt. Where they leave too little of the context for an answer, the
   * oldest turns are forgotten. Throws a RowError for a message that is too long by itself, which is then not kept.
   */
  ask(message: string, note: (line: string) => void): Int32Array {
    const room = this.context - Math.min(this.settings.maxNewTokens, Math.ceil(this.context / 4));
    const { hasChatTemplate } = this.tokenizer;
    if (hasChatTemplate) this.said.push({ role: 'user', content: message });
    const idsOf = (): Int32Array => encodePrompt(this.tokenizer, hasChatTemplate ? [...this.system, ...this.said] : message);
    try {
      let ids = idsOf();
      let forgotten = 0;
      for (; ids.length > room && this.said.length > 1; forgotten++, ids = idsOf()) this.said.splice(0, 2);
      if (forgotten > 0) note(`the context is full: ${forgotten === 1 ? 'the oldest turn is' : `the ${forgotten} oldest turns are`} forgotten`);
      if (ids.length < this.context) return ids;
      throw new RowError(`the message has ${ids.length} tokens, the context ${this.context} leaves no room for an answer`);
    } catch (error) {
      this.said.pop();
      throw error;
    }
  }

  answer(text: string): void {
    if (this.tokenizer.hasChatTemplate) this.said.push({ role: 'assistant', content: text });
  }
}

/** Draws an answer, giving its text to `show` piece by piece, and returns it; it ends where it is as soon as `ended`. */
async function reply(model: Model, tokenizer: Tokenizer, prompt: Int32Array, row: number, settings: ChatSettings, ended: () => boolean,
  show?: (piece: string) => void): Promise<string> {
  const stream = tokenizer.stream();
  const filter = new StopFilter(settings.stop!);
  let text = '';
  let taken = 0;
  const add = (piece: string): void => {
    text += piece;
    show?.(piece);
  };
  const take = (ids: readonly number[]): void => {
    for (; taken < ids.length; taken++) if (!tokenizer.eosIds.has(ids[taken])) add(filter.push(stream.push(ids[taken])));
  };
  const atStop = stopAt(tokenizer, settings.stop!);
  const draw = { temperature: settings.greedy ? 0 : settings.temperature, topK: settings.topK, topP: settings.topP, seed: settings.seed, iteration: 0 };
  const request = { prompt, row, sample: 0, maxNewTokens: Math.min(settings.maxNewTokens, model.config.context - prompt.length) };
  for await (const { ids } of generate(model.decoder, [request], draw, {
    slots: 1,
    ends: [...tokenizer.eosIds],
    cut: (ids) => (ended() ? ids.length : atStop(ids)),
    watch: (_, ids) => take(ids),
  })) take(ids);
  add(filter.push(stream.end()) + filter.end());
  return text;
}
