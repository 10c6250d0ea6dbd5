import { chatOptions, type ChatSettings } from '../options.ts';
import { command } from './command.ts';

export const chat = command<ChatSettings>({
  name: 'chat',
  summary: 'Talk to a model',
  options: chatOptions,
  examples: ['rlhf chat --model policy --system "Answer briefly."'],
  run: async (context, settings) => (await import('../stages/chat.ts')).chat(settings, context),
});
