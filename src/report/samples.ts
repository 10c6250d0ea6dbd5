import { basename } from 'node:path';
import { RowError, streamRows } from '../data/collect.ts';
import { asCompletions } from '../data/rows.ts';

/** Answers of several files to one prompt. */
export interface Comparison {
  prompt: string;
  answers: { label: string; text: string; reward?: number }[];
}

const PROMPTS = 12;
const KEPT_PROMPTS = 20_000;

/**
 * Some of the prompts that all completion files answer, spread over the first file, with each file's (first) answer. Files are told apart by their
 * names without `.jsonl`.
 * @throws UsageError for a file that cannot be read or a bad row
 */
export async function compareSamples(files: string[], limit = PROMPTS): Promise<Comparison[]> {
  const answers: Map<string, { text: string; reward?: number }>[] = [];
  for (const file of files) {
    const byPrompt = new Map<string, { text: string; reward?: number }>();
    for await (const { row, item } of streamRows([file], (value) => asCompletions(value))) {
      const prompt = typeof item.prompt === 'string' ? item.prompt : conversationText(item.prompt);
      if (byPrompt.has(prompt) || byPrompt.size >= KEPT_PROMPTS) continue;
      const text = item.completions[0];
      if (text === undefined) throw new RowError('"completions" is empty');
      const rewards = row.value.rewards;
      const reward = Array.isArray(rewards) ? (rewards as unknown[])[0] : row.value.reward;
      byPrompt.set(prompt, { text, reward: typeof reward === 'number' ? reward : undefined });
    }
    answers.push(byPrompt);
  }
  const common = [...(answers[0]?.keys() ?? [])].filter((prompt) => answers.every((each) => each.has(prompt)));
  const spread = common.filter((_, i) => i % Math.max(1, Math.floor(common.length / limit)) === 0);
  return spread.slice(0, limit).map((prompt) => ({
    prompt,
    answers: answers.map((each, i) => ({ label: labelOf(files[i]!), ...each.get(prompt)! })),
  }));
}

const labelOf = (file: string): string => basename(file).replace(/\.jsonl(\.gz)?$/, '');

const conversationText = (messages: { role: string; content: string }[]): string =>
  messages.map(({ role, content }) => `${role}: ${content}`).join('\n');
