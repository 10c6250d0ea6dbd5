import { Template } from './python_jinja.ts';

/** One turn of a conversation. */
export interface Message {
  role: string;
  content: string;
}

/** A conversation that a template refuses, or a template that cannot be used; the message says which. */
export class ChatTemplateError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'ChatTemplateError';
  }
}

/** A rendered conversation; spans are [begin, end) in UTF-16 units of `text`, one for each assistant turn. */
export interface RenderedChat {
  text: string;
  turns: { index: number; begin: number; end: number }[];
}

/** A model's Jinja chat template (trim_blocks and lstrip_blocks on, as transformers renders it). */
export class ChatTemplate {
  readonly #template: Template;
  readonly #variables: Record<string, unknown>;

  /** `specialTokens` are the texts the template may name: bos_token, eos_token, …; a broken template throws. */
  constructor(source: string, specialTokens: object = {}) {
    try {
      // Jinja reads every line end as \n.
      this.#template = new Template(source.replace(/\r\n?/g, '\n'));
    } catch (error) {
      // The library says nothing of its own where the text ends within a tag.
      throw new ChatTemplateError(`the chat template is not valid Jinja: ${error instanceof TypeError ? 'it ends too early' : firstLine(error)}`);
    }
    this.#variables = { tools: null, documents: null, ...specialTokens };
  }

  render(messages: readonly Message[], options: { addGenerationPrompt?: boolean } = {}): string {
    try {
      return this.#template.render({
        ...this.#variables,
        messages: messages.map((message) => ({ ...message })),
        add_generation_prompt: options.addGenerationPrompt ?? false,
      });
    } catch (error) {
      throw new ChatTemplateError(`the chat template refuses the conversation: ${firstLine(error)}`);
    }
  }

  /**
   * Renders a conversation and finds what the assistant says in it. A turn begins where the conversation before it,
   * rendered with the generation prompt, ends, and goes up to where the conversation with it ends. A template whose
   * earlier turns look different later on has no such places: an error.
   */
  renderTurns(messages: readonly Message[]): RenderedChat {
    const text = this.render(messages);
    const turns: RenderedChat['turns'] = [];
    messages.forEach((message, index) => {
      if (message.role !== 'assistant') return;
      const before = this.render(messages.slice(0, index), { addGenerationPrompt: true });
      const after = index === messages.length - 1 ? text : this.render(messages.slice(0, index + 1));
      if (!text.startsWith(before) || !text.startsWith(after) || after.length < before.length) {
        throw new ChatTemplateError(
          `the chat template renders message ${index + 1} differently as part of a longer conversation, ` +
            'so that the assistant\'s turn cannot be told from the rest',
        );
      }
      turns.push({ index, begin: before.length, end: after.length });
    });
    return { text, turns };
  }
}

function firstLine(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return message.split('\n')[0].slice(0, 300);
}
